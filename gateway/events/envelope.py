"""An entry of a history page: which event it is, and where in it the payload stands.

The vendor publishes no fields of `MesoLiveEventEnvelope`, so every plausible form is taken: a discriminator
beside a payload (an object, a list of one object, or JSON as a text), or the payload's members beside it.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

from gateway.errors import DecodeError
from gateway.events.catalogue import EventKind, find
from gateway.events.dead_letter_reasons import DeadLetterReason
from gateway.events.lossless_json import MAX_DEPTH, check, read, shown
from gateway.events.uuids import NO_ID, canonical_uuid
from gateway.names import folded

DISCRIMINATORS: Final = ("eventtype", "type", "eventname", "callback", "callbackname", "method", "name")
"""Members that may name the event's kind, folded; the first that names a known one holds."""

TYPE: Final = "$type"
"""By which .NET's serializers say of which type an object is, at most with its namespace and its assembly."""

PAYLOADS: Final = ("payload", "event", "data", "args", "body")
"""Members that may hold the payload, folded; the first object holds, else the first text."""

HEADER: Final = {"eventid": "EventId", "eventseqid": "EventSeqId", "eventtime": "EventTime"}
"""What may stand in the envelope, the payload or both."""

ENVELOPE_LEVELS: Final = MAX_DEPTH + 2
"""Nesting of an envelope: its own object and a list around the payload."""

NO_SEQUENCE: Final = 0
"""An EventSeqId that means none."""


def fold(members: dict[str, Any]) -> dict[str, str]:
    """Return folded name → name as it came, of those that an envelope may have; raises duplicate-member."""
    found: dict[str, str] = {}
    for name in members:
        known = folded(name)
        if known in _KNOWN:
            if known in found:
                detail = f"the members {shown(found[known])} and {shown(name)} are one; each name once would be right"
                raise DecodeError(DeadLetterReason.DUPLICATE_MEMBER, detail)
            found[known] = name
    return found


def discriminate(members: dict[str, Any], found: dict[str, str]) -> EventKind:
    """Return which event an envelope holds; raises unknown-kind or malformed-envelope, or what `read` raises."""
    given = [members[found[name]] for name in DISCRIMINATORS if name in found]
    for value in given:
        entry = find(value) if isinstance(value, str) else None
        if entry is not None:
            return entry
    names = [found[name] for name in PAYLOADS if name in found]
    for typed in [members, *([_object(members, names)] if names and not given else [])]:
        entry = _of_type(typed)
        if entry is not None:
            return entry
        given += [typed[TYPE]] if TYPE in typed else []
    if not given:
        detail = "no member says which event it is; EventType with a callback's name would be right"
        raise DecodeError(DeadLetterReason.MALFORMED_ENVELOPE, detail)
    detail = f"{' and '.join(map(shown, given))} is no event of the reference; OrderUpdate, for one, would be right"
    raise DecodeError(DeadLetterReason.UNKNOWN_KIND, detail)


def payload_of(members: dict[str, Any], found: dict[str, str], entry: EventKind) -> dict[str, Any]:
    """Return the payload with its header filled from the envelope where it lacks any of it.

    Raises malformed-envelope, or what `read` raises for JSON as a text.
    """
    names = [found[name] for name in PAYLOADS if name in found]
    if not names:
        discriminators = {
            found[name] for name in DISCRIMINATORS if name in found and _names(members[found[name]], entry)
        }
        return {name: value for name, value in members.items() if name not in discriminators}
    payload = _object(members, names)
    for known, name in HEADER.items():
        if known in found:
            _fill(payload, known, name, members[found[known]])
    return payload


def without_type(members: dict[str, Any], entry: EventKind) -> dict[str, Any]:
    """Return an object without the `$type` that says of it that it is an event of this kind, which is known."""
    if TYPE not in members or _of_type(members) is not entry:
        return members
    return {name: value for name, value in members.items() if name != TYPE}


def lacks(value: object) -> bool:
    """Return whether a value of the header is as good as none: null, 0 in any spelling, or the all-zero UUID."""
    if isinstance(value, str):
        return _ZERO.fullmatch(value) is not None or _is_no_id(value)
    return value is None or (isinstance(value, int | Decimal) and value is not False and value == NO_SEQUENCE)


def unwrapped(value: object) -> dict[str, Any] | None:
    """Return the object that stands for a payload, be it in a list of one; None for anything else."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, dict) else None


_ZERO: Final = re.compile(r"-?0(\.0+)?")
"""A sequence that means none, as a text: `JsonNumberHandling.WriteAsString` keeps the scale of a decimal."""
_KNOWN: Final = frozenset({*DISCRIMINATORS, *PAYLOADS, *HEADER})


def _of_type(members: dict[str, Any]) -> EventKind | None:
    """Return the event that a `$type` names: `OrderUpdateEvent`, `MesoLive.OrderUpdateEvent, MesoLive.Contracts`."""
    name = members.get(TYPE)
    return find(re.split(r"[.+]", name.partition(",")[0])[-1]) if isinstance(name, str) else None


def _names(value: object, entry: EventKind) -> bool:
    return isinstance(value, str) and find(value) is entry


def _is_no_id(text: str) -> bool:
    try:
        return canonical_uuid(text) == NO_ID
    except ValueError:
        return False


def _fill(payload: dict[str, Any], known: str, name: str, value: object) -> None:
    if lacks(value):
        return
    own = next((own for own in payload if folded(own) == known), name)
    if lacks(payload.get(own)):
        payload[own] = value


def _object(members: dict[str, Any], names: list[str]) -> dict[str, Any]:
    for name in names:
        payload = unwrapped(members[name])
        if payload is not None:
            return payload
    for name in names:
        if isinstance(members[name], str):
            return _from_text(members[name], name)
    detail = (
        f"{names[0]} is {shown(members[names[0]])}; an object, a list of one object or JSON as a text would be right"
    )
    raise DecodeError(DeadLetterReason.MALFORMED_ENVELOPE, detail)


def _from_text(text: str, name: str) -> dict[str, Any]:
    try:
        payload = unwrapped(read(text, levels=ENVELOPE_LEVELS))
        check(payload)
    except DecodeError as error:
        raise DecodeError(error.reason, f"in the text of {name}: {error.detail}") from error
    if payload is None:
        detail = f"the text of {name} holds no object; an object or a list of one would be right"
        raise DecodeError(DeadLetterReason.MALFORMED_ENVELOPE, detail)
    return payload
