"""Reads the hub's history for a comparison, by rules of its own: it shares no line with the decoder."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

from gateway.errors import CallFailed, CallRejected
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
_CALLBACKS: Final = {name.lower(): f"On{name}" for name in _EVENTS} | {"agentstatus": "OnAgentStatusChange"}


async def read_history(hub: Hub, *, since: int, until: int, limit: int) -> AsyncIterator[Emitted]:
    """Yield the events after `since` up to `until`, as the hub's history has them; what is no event is left out.

    Each page is asked for by the last sequence of the one before, without its continuation token: another way
    than the gateway's own. Where the hub refuses a page, half of it is asked for from then on. Raises HubError.
    """
    at = since
    while at < until:
        try:
            page = await hub.events_since(at, limit, None)
        except (CallFailed, CallRejected):
            if limit == 1:
                raise
            limit //= 2
            continue
        events = sorted(filter(None, map(read_envelope, page.envelopes)), key=lambda event: event.sequence)
        if not events or events[-1].sequence <= at:
            return
        for event in events:
            if at < event.sequence <= until:
                yield event
                at = event.sequence
        at = max(at, events[-1].sequence)


def read_envelope(envelope: bytes) -> Emitted | None:
    """Read one entry of a page; None for one that has no sequence or is of no known callback."""
    try:
        members = json.loads(envelope, parse_float=_Digits, parse_int=_Digits)
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, dict):
        return None
    folded = {fold(name): value for name, value in members.items()}
    names = [folded[name] for name in _NAMES if isinstance(folded.get(name), str)]
    callback = next((_CALLBACKS[short] for name in names if (short := _short(name)) in _CALLBACKS), None)
    payload = next((_unwrap(folded[name]) for name in _PAYLOADS if name in folded), members)
    if callback is None or not isinstance(payload, dict):
        return None
    payload = _with_header(payload, folded)
    found = next((value for name, value in payload.items() if fold(name) == "eventseqid"), None)
    sequence = whole(found)
    if sequence is None or sequence <= 0:
        return None
    return Emitted(sequence, callback, _dump(payload))


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
        if payload.get(written) in (None, "0", "0.0") and envelope.get(fold(name)) is not None:
            payload = payload | {written: envelope[fold(name)]}
    return payload


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
