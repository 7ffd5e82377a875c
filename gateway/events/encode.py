"""The canonical value of an event: the one form that its topic carries, and the way back without loss.

JSON in UTF-8 without spaces: the reference's names in its order, nulls written, decimals as texts, times in
UTC; then unknown members as they came. One event gives the same bytes from live and from history.
"""

from __future__ import annotations

from typing import Final, Literal, overload

import msgspec
from pydantic import ValidationError

from gateway.errors import DecodeError
from gateway.events.catalogue import CATALOGUE
from gateway.events.dead_letter_reasons import DeadLetterReason
from gateway.events.lossless_json import Exact, read, shown
from gateway.events.models import payloads
from gateway.events.models.payloads import EventPayload
from gateway.events.validation_errors import payload_fault


def encode(payload: EventPayload) -> bytes:
    """Return the canonical value of `payload`."""
    return _encode(payload.model_dump(warnings=False))  # a guessed type may hold another value


@overload
def read_event(kind: Literal["entry-signal"], value: bytes) -> payloads.EntrySignalEvent: ...
@overload
def read_event(kind: Literal["exit-signal"], value: bytes) -> payloads.ExitSignalEvent: ...
@overload
def read_event(kind: Literal["adjustment-signal"], value: bytes) -> payloads.AdjustmentSignalEvent: ...
@overload
def read_event(kind: Literal["order-update"], value: bytes) -> payloads.OrderUpdateEvent: ...
@overload
def read_event(kind: Literal["position-update"], value: bytes) -> payloads.PositionUpdateEvent: ...
@overload
def read_event(kind: Literal["leg-update"], value: bytes) -> payloads.LegUpdateEvent: ...
@overload
def read_event(kind: Literal["agent-status-change"], value: bytes) -> payloads.AgentStatusEvent: ...
@overload
def read_event(kind: Literal["error"], value: bytes) -> payloads.ErrorEvent: ...
@overload
def read_event(
    kind: Literal["position-entry-preparation-completed"], value: bytes
) -> payloads.PositionEntryPreparationCompletedEvent: ...
@overload
def read_event(
    kind: Literal["position-entry-preparation-failed"], value: bytes
) -> payloads.PositionEntryPreparationFailedEvent: ...
@overload
def read_event(
    kind: Literal["position-exit-preparation-completed"], value: bytes
) -> payloads.PositionExitPreparationCompletedEvent: ...
@overload
def read_event(
    kind: Literal["position-exit-preparation-failed"], value: bytes
) -> payloads.PositionExitPreparationFailedEvent: ...
@overload
def read_event(
    kind: Literal["position-adjustment-preparation-completed"], value: bytes
) -> payloads.PositionAdjustmentPreparationCompletedEvent: ...
@overload
def read_event(
    kind: Literal["position-adjustment-preparation-failed"], value: bytes
) -> payloads.PositionAdjustmentPreparationFailedEvent: ...
@overload
def read_event(
    kind: Literal["auto-update-vars-adjustment-started"], value: bytes
) -> payloads.AutoUpdateVarsAdjustmentStartedEvent: ...
@overload
def read_event(
    kind: Literal["auto-update-vars-adjustment-completed"], value: bytes
) -> payloads.AutoUpdateVarsAdjustmentCompletedEvent: ...
@overload
def read_event(
    kind: Literal["auto-update-vars-adjustment-failed"], value: bytes
) -> payloads.AutoUpdateVarsAdjustmentFailedEvent: ...
@overload
def read_event(kind: str, value: bytes) -> EventPayload: ...
def read_event(kind: str, value: bytes) -> EventPayload:
    """Return, exactly, the payload whose canonical value is `value`; `kind` as in the message's topic.

    For a literal kind, a type checker has the payload's own class.

    Decimals are `decimal.Decimal` with their scale, open numbers too; no digit passes through a float. Raises
    DecodeError where `value` is no event of that kind.
    """
    entry = CATALOGUE.get(kind)
    if entry is None:
        raise DecodeError(DeadLetterReason.UNKNOWN_KIND, f"{shown(kind)} is none of {', '.join(CATALOGUE)}")
    try:
        return entry.model.model_validate(read(value))
    except ValidationError as error:
        raise payload_fault(error) from error


def _spelling(number: object) -> msgspec.Raw:
    if isinstance(number, Exact):
        return msgspec.Raw(number.text.encode())
    raise TypeError(f"{type(number).__name__} has no canonical form")


_encode: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=_spelling).encode
