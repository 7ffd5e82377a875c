"""EventSeqId and EventId of an undecodable event, so that a dead letter keeps its place in the order.

A wrong sequence would be worse than none: the session would take an event for settled that was never received. So a
member that stands twice, or under two values, gives nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic_core import PydanticCustomError

from gateway.errors import DecodeError
from gateway.events.envelope import HEADER, PAYLOADS, fold, unwrapped
from gateway.events.lossless_json import Repeating, read_leniently
from gateway.events.models.fields import sequence_of
from gateway.events.uuids import LONGEST, NO_ID, canonical_uuid
from gateway.names import folded


def recover(raw: bytes, *, enveloped: bool) -> tuple[int | None, str | None]:
    """Return sequence and id as far as they can be trusted; of an envelope, the payload's before its own."""
    text = raw.decode("utf-8", "replace")
    try:
        value = read_leniently(text)
    except (ValueError, RecursionError):
        return _scanned(text)
    if not isinstance(value, dict):
        return None, None
    sequence, id_ = _header(value)
    if enveloped:
        inner_sequence, inner_id = _header(_payload(value))
        sequence, id_ = inner_sequence or sequence, inner_id or id_
    return sequence, id_


_SEQUENCE_MEMBER: Final = re.compile(
    r'(?<!\\)"Event[_-]?Seq[_-]?Id"\s*:\s*("?)([0-9]{1,19})\1(?=\s*[,}])', re.IGNORECASE | re.ASCII
)
_ID_MEMBER: Final = re.compile(rf'(?<!\\)"Event[_-]?Id"\s*:\s*"([^"\\]{{32,{LONGEST}}})"', re.IGNORECASE | re.ASCII)


_PIECE: Final = 64 * 1024
_LONGEST_MEMBER: Final = 1024
"""Characters of a member that is looked for, with spaces."""


def _header(members: dict[str, Any]) -> tuple[int | None, str | None]:
    repeated = members.repeated if isinstance(members, Repeating) else ()
    found: dict[str, list[object]] = {}
    for name, value in members.items():
        known = folded(name)
        if known in HEADER:
            found.setdefault(known, []).extend([value] if name not in repeated else [value, value])
    sequences, ids = found.get("eventseqid", []), found.get("eventid", [])
    return (
        _sequence(sequences[0]) if len(sequences) == 1 else None,
        _id(ids[0]) if len(ids) == 1 else None,
    )


def _payload(members: dict[str, Any]) -> dict[str, Any]:
    try:
        names = fold(members)
    except DecodeError:
        return {}
    values = [members[names[name]] for name in PAYLOADS if name in names]
    for value in [*values, *map(_parsed, values)]:
        payload = unwrapped(value)
        if payload is not None:
            return payload
    return {}


def _parsed(value: object) -> object:
    try:
        return read_leniently(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return None


def _scanned(text: str) -> tuple[int | None, str | None]:
    sequences = {int(found[2]) for found in _found(_SEQUENCE_MEMBER, text)}
    ids = {_id(found[1]) for found in _found(_ID_MEMBER, text)}
    return (
        _sequence(sequences.pop()) if len(sequences) == 1 else None,
        ids.pop() if len(ids) == 1 else None,
    )


def _found(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Search piece by piece: on a thread, no search holds up the others for long."""
    at = 0
    while at < len(text):
        end = at + _PIECE
        for found in pattern.finditer(text, at, end + _LONGEST_MEMBER):
            if found.start() >= end:
                break
            yield found
        at = end


def _sequence(value: object) -> int | None:
    try:
        return sequence_of(value) or None
    except PydanticCustomError:
        return None


def _id(value: object) -> str | None:
    try:
        id_ = canonical_uuid(value if isinstance(value, str) else "")
    except ValueError:
        return None
    return None if id_ == NO_ID else id_
