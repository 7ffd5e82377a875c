"""Reads the hub's history for a comparison, by rules of its own: it shares no line with the decoder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.errors import CallFailed, CallRejected, GatewayError
from gateway.hub.methods import Hub
from gateway.verify.compare import Emitted, fold, whole

_NAMES: Final = ("eventtype", "type", "eventname", "callback", "callbackname", "method", "name")
_PAYLOADS: Final = ("payload", "event", "data", "args", "body")
_EVENTS: Final = (
    "EntrySignal",
    "ExitSignal",
    "AdjustmentSignal",
    "OrderUpdate",
    "PositionUpdate",
    "LegUpdate",
    "AgentStatusChange",
    "Error",
    "PositionEntryPreparationCompleted",
    "PositionEntryPreparationFailed",
    "PositionExitPreparationCompleted",
    "PositionExitPreparationFailed",
    "PositionAdjustmentPreparationCompleted",
    "PositionAdjustmentPreparationFailed",
    "AutoUpdateVarsAdjustmentStarted",
    "AutoUpdateVarsAdjustmentCompleted",
    "AutoUpdateVarsAdjustmentFailed",
)
_TYPE: Final = "$type"
_CALLBACKS: Final = {name.lower(): f"On{name}" for name in _EVENTS} | {"agentstatus": "OnAgentStatusChange"}


_MOST_PAGES: Final = 100
"""Pages in a row that may bring nothing new though their tokens lead on."""


@dataclass(slots=True)
class HubHistory:
    """What the hub's history has of a range."""

    events: list[Emitted] = field(default_factory=list)
    """In rising order."""
    through: int = 0
    """The highest sequence that it shows, of whatever kind; the range's end or above where it shows all of it."""


async def read_history(hub: Hub, *, since: int, until: int, limit: int) -> HubHistory:
    """Return the events after `since` up to `until`, as the hub's history has them; anything but an event is left out.

    Each page is requested by the last sequence of the one before: another way than the gateway's own. Its continuation
    token is followed only where a page shows no sequence above that. Where the hub refuses a page, half of it is
    requested from then on. Raises HubError, and GatewayError where a page has no number to go on with.
    """
    found, token, followed = HubHistory(through=since), None, set[str]()
    while found.through < until:
        try:
            page = await hub.events_since(found.through, limit, token)
        except (CallFailed, CallRejected) as error:
            if limit == 1:
                problem = f"the hub cannot return what follows event {found.through}, not even alone: {error}"
                raise GatewayError(problem) from error
            limit, token = limit // 2, None
            continue
        is_further = _take(found, page.envelopes, until)
        if is_further:
            token = None
            followed.clear()
        elif page.token is not None and page.token not in followed and len(followed) < _MOST_PAGES:
            token = page.token
            followed.add(token)
        elif page.token is None and len(page.envelopes) >= limit:
            raise GatewayError(f"no entry of the hub's history behind event {found.through} shows a number")
        else:
            break
    return found


def _take(found: HubHistory, envelopes: Sequence[bytes], until: int) -> bool:
    """Take in a page; return whether it shows anything with a higher sequence than what was shown before."""
    before = found.through
    entries = sorted(filter(None, map(_numbered, envelopes)), key=lambda entry: entry[0])
    for sequence, event in entries:
        if found.through < sequence:
            found.through = sequence
            if event is not None and sequence <= until:
                found.events.append(event)
    return found.through > before


def _numbered(envelope: bytes) -> tuple[int, Emitted | None] | None:
    """Return the sequence of an entry, and the event that it is, if it is one; None without a sequence."""
    event = read_envelope(envelope)
    if event is not None:
        return event.sequence, event
    members = _members(envelope)
    if members is None:
        return None
    payload = _payload(members)
    found = (value for part in (payload, members) if isinstance(part, dict) for value in _sequences(part))
    sequence = next(found, None)
    return None if sequence is None else (sequence, None)


def _sequences(members: dict[str, Any]) -> Iterator[int]:
    """Yield the values of a member that are sequences."""
    numbers = (whole(value) for name, value in members.items() if fold(name) == "eventseqid")
    return (number for number in numbers if number is not None and number > 0)


def read_envelope(envelope: bytes) -> Emitted | None:
    """Read one entry of a page; None for one that has no sequence or is of no known callback."""
    members = _members(envelope)
    if members is None:
        return None
    folded = _folded(members)
    names = [folded[name] for name in _NAMES if isinstance(folded.get(name), str)]
    payload = _payload(members)
    if not isinstance(payload, dict):
        return None
    names += [_type_of(members), _type_of(payload)]
    callback = next((_CALLBACKS[short] for name in names if (short := _short(name)) in _CALLBACKS), None)
    if callback is None:
        return None
    if _CALLBACKS.get(_short(_type_of(payload))) == callback:  # the serializer's word for the name, and no member
        payload = {name: value for name, value in payload.items() if name != _TYPE}
    if all(name not in folded for name in _PAYLOADS):  # flat: what names the event is no part of it
        payload = {name: value for name, value in payload.items() if not _is_name_of(callback, name, value)}
    payload = _with_header(payload, folded)
    found = next((value for name, value in payload.items() if fold(name) == "eventseqid"), None)
    sequence = whole(found)
    if sequence is None or sequence <= 0:
        return None
    return Emitted(sequence, callback, _dump(payload))


def _type_of(members: dict[str, Any]) -> str:
    """Return the name that a `$type` gives, without its namespace and assembly; empty where it gives none."""
    name = members.get(_TYPE)
    return re.split(r"[.+]", name.partition(",")[0])[-1] if isinstance(name, str) else ""


def _is_name_of(callback: str, name: str, value: Any) -> bool:  # noqa: ANN401 - any JSON
    return fold(name) in _NAMES and isinstance(value, str) and _CALLBACKS.get(_short(value)) == callback


def _members(envelope: bytes) -> dict[str, Any] | None:
    try:
        members = json.loads(envelope, parse_float=_Digits, parse_int=_Digits)
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) else None


def _folded(members: dict[str, Any]) -> dict[str, Any]:
    return {fold(name): value for name, value in members.items()}


def _payload(members: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    folded = _folded(members)
    return next((_unwrap(folded[name]) for name in _PAYLOADS if name in folded), members)


_NO_ID: Final = re.compile(r"[{(]?0{8}(-?0{4}){3}-?0{12}[)}]?|\{(0x0+,){3}\{0x00(,0x00){7}\}\}")
"""As .NET writes it, in whatever format."""


class _Digits(str):
    """A JSON number by its digits."""

    __slots__ = ()


def _short(name: str) -> str:
    return fold(name).removeprefix("on").removesuffix("event")


def _unwrap(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, str) and not isinstance(value, _Digits):
        try:
            value = json.loads(value, parse_float=_Digits, parse_int=_Digits)
        except (ValueError, RecursionError):
            return None
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _with_header(payload: dict[str, Any], envelope: dict[str, Any]) -> dict[str, Any]:
    """Fill in from the envelope what the payload lacks of EventId, EventSeqId and EventTime."""
    own = {fold(name): name for name in payload}
    for name in ("EventId", "EventSeqId", "EventTime"):
        written = own.get(fold(name), name)
        value = envelope.get(fold(name))
        if _is_unset(payload.get(written)) and not _is_unset(value):
            payload = payload | {written: value}
    return payload


def _is_unset(value: object) -> bool:
    """Return whether a value of the header is none: null, 0 as a number or a text, or the UUID of zeros alone."""
    return value is None or whole(value) == 0 or (isinstance(value, str) and _NO_ID.fullmatch(value) is not None)


def _dump(value: Any) -> str:  # noqa: ANN401 - any JSON
    """Write JSON with its numbers' own digits."""
    match value:
        case _Digits():
            return str(value)
        case dict():
            return "{" + ",".join(f"{json.dumps(name)}:{_dump(member)}" for name, member in value.items()) + "}"
        case list():
            return "[" + ",".join(map(_dump, value)) + "]"
        case _:
            return json.dumps(value)
