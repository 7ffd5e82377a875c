"""The canonical value of an event: the one form that its topic carries, and the way back without loss.

JSON in UTF-8 without spaces: the reference's names in its order, nulls written, decimals as texts, times in
UTC; then unknown members as they came. One event gives the same bytes from live and from history.
"""

from __future__ import annotations

from typing import Final

import msgspec
from pydantic import ValidationError

from gateway.errors import DecodeError
from gateway.events.catalogue import CATALOGUE
from gateway.events.faults import payload_fault
from gateway.events.payloads import EventPayload
from gateway.events.reasons import Reason
from gateway.events.strict_json import Exact, read, shown


def encode(payload: EventPayload) -> bytes:
    """Give the canonical value of `payload`."""
    return _encode(payload.model_dump(warnings=False))  # a guessed type may hold another value


def read_event(kind: str, value: bytes) -> EventPayload:
    """Give back, exactly, the payload whose canonical value is `value`; `kind` as in the message's topic.

    Decimals are `decimal.Decimal` with their scale, open numbers too; no digit passes through a float.
    Raises DecodeError where `value` is no event of that kind.
    """
    entry = CATALOGUE.get(kind)
    if entry is None:
        raise DecodeError(Reason.UNKNOWN_KIND, f"{shown(kind)} is none of {', '.join(CATALOGUE)}")
    try:
        return entry.model.model_validate(read(value))
    except ValidationError as error:
        raise payload_fault(error) from error


def _spelling(number: object) -> msgspec.Raw:
    if isinstance(number, Exact):
        return msgspec.Raw(number.text.encode())
    raise TypeError(f"{type(number).__name__} has no canonical form")


_encode: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=_spelling).encode
