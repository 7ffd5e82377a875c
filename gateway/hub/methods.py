"""The hub's four methods and the envelope that their results come in. No retry, no state.

What the vendor's reference leaves open (the spelling of names, the envelope's exact fields, Status as a number or a
name) is read in every plausible form.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, TypeVar

import msgspec
from pydantic_core import PydanticCustomError

from gateway.errors import CallFailed, CallRejected, CallTimedOut, DecodeError
from gateway.events.lossless_json import read
from gateway.events.models.fields import sequence_of
from gateway.events.times import canonical_time
from gateway.names import folded
from gateway.signalr import lenient_json as salvage
from gateway.signalr.calls import CallBudget
from gateway.signalr.connection import HubConnection
from gateway.signalr.large_records import ODD, decode_aside
from gateway.signalr.protocol import MOST_PARTS

PATH: Final = "/hubs/event/v1"
_SUCCESS: Final = {"0", "0.0", "success"}
_DUPLICATE: Final = "duplicaterequest"
_WRAPPERS: Final = ("data", "payload", "result", "value")
"""Members that may hold the payload, folded."""
_FIELD_NAMES: Final = ("field", "property", "propertyname", "name", "member", "key")
"""Members of an entry of ValidationErrors, where it is a list, that may name the argument; folded."""
_MAX_TEXT: Final = 300
_MAX_ERROR_BYTES: Final = 64 * 1024
"""Bytes above which a status or an error is not read as JSON."""
_MOST_EVENTS: Final = 10_000
"""Events that a page may have though fewer were requested: some hubs ignore the limit."""
_COMMAS: Final = 500
"""Commas in an event, on average, above which a large page is invalid."""
_MAX_SHOWN: Final = 40
_SPELLING: Final = re.compile(rb'"latest([_-]?)event', re.IGNORECASE)
"""What stands between the words of a result's names."""
_CAPITAL: Final = re.compile(r"(?<!^)(?=[A-Z])")

_Members = dict[str, msgspec.Raw]
_decode_members = msgspec.json.Decoder(_Members).decode
_decode_any = msgspec.json.Decoder().decode
_skip = msgspec.json.Decoder(msgspec.Raw).decode
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class SubscriptionAnswer:
    """The answer to SubscribeToStrategies and UnsubscribeFromStrategies."""

    successful: tuple[int, ...]
    failed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Latest:
    """The answer to GetLatestEventSeqId."""

    sequence: int
    time: str
    """SnapshotTime, canonical."""


@dataclass(frozen=True, slots=True)
class EventsPage:
    """The answer to GetEventsSince: raw JSON envelopes."""

    envelopes: list[bytes]
    token: str | None
    is_full: bool = False
    """Whether it has as many as were requested."""


class Hub:
    """The hub's methods over one connection.

    Each raises CallFailed (also for a result that makes no sense), CallRejected, CallTimedOut, ConnectionLost. After
    three calls in a row without an answer, or a minute of errors alone, the connection is given up: ConnectionLost.

    A hub reads the names of arguments by the naming policy by which it writes those of results, in any letter case; so
    once `latest` has seen `latest_event_seq_id` or `latest-event-seq-id`, arguments are spelled in the same way.
    """

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection
        self._budget = CallBudget()
        self._separator = ""

    async def subscribe(self, strategies: Sequence[int] | None) -> SubscriptionAnswer:
        """Subscribe to `strategies`, or to all with None; an empty list does nothing."""
        return await self._subscription("SubscribeToStrategies", strategies)

    async def unsubscribe(self, strategies: Sequence[int] | None) -> SubscriptionAnswer:
        """Unsubscribe from `strategies`, or from all with None; an empty list does nothing."""
        return await self._subscription("UnsubscribeFromStrategies", strategies)

    async def latest(self) -> Latest:
        """Return the latest sequence and the hub's time."""
        method = "GetLatestEventSeqId"
        with self._counted():
            result = await self._connection.call(method, {})
            spelling = _SPELLING.search(result)
            self._separator = "" if spelling is None else spelling[1].decode()
            return await _in_time(partial(_latest, method), result)

    async def events_since(self, since: int, limit: int, token: str | None) -> EventsPage:
        """Return the events after `since`, at most `limit`, going on at `token`."""
        method = "GetEventsSince"
        argument: dict[str, object] = {"SinceEventSeqId": since, "Limit": limit, "ContinuationToken": token}
        with self._counted():
            return await self._call(method, argument, partial(_page, method, max(limit, _MOST_EVENTS)))

    async def _subscription(self, method: str, strategies: Sequence[int] | None) -> SubscriptionAnswer:
        argument: dict[str, object] = {"Strategies": None if strategies is None else list(strategies)}
        with self._counted():
            try:
                return await self._call(method, argument, partial(_strategies, method))
            except CallRejected as error:
                if method == "SubscribeToStrategies" and folded(error.status) == _DUPLICATE:
                    return SubscriptionAnswer(tuple(strategies or ()), ())  # it is subscribed to already
                raise

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count what fails, and keep the key out of the errors: a hub may quote it."""
        try:
            yield
        except (CallFailed, CallRejected, CallTimedOut) as error:
            redacted = error if isinstance(error, CallTimedOut) else error.redacted(self._connection.shown)
            now = asyncio.get_running_loop().time()
            spent = self._budget.failed(now, is_timeout=isinstance(error, CallTimedOut))
            if spent is not None:
                self._connection.give_up(f"{spent}; the last one: {redacted}")
            raise redacted from None
        self._budget.succeeded()

    async def _call(self, method: str, argument: dict[str, object], read: Callable[[bytes], _Result]) -> _Result:
        spelled = argument
        if self._separator:
            spelled = {_CAPITAL.sub(self._separator, name): value for name, value in argument.items()}
        return await _in_time(read, await self._connection.call(method, spelled))


async def _in_time(read: Callable[[bytes], _Result], result: bytes) -> _Result:
    """Read a result: on the loop where that takes milliseconds, as it does for a page of events, and aside else."""
    if len(result) <= ODD or _is_sound(result):
        return read(result)
    return await decode_aside(read, result)


def _is_sound(result: bytes) -> bool:
    """Return whether a result is JSON of not too many parts; it costs a millisecond a megabyte."""
    try:
        result.decode()
        _skip(result)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return False
    return result.count(b",") <= MOST_PARTS


def _latest(method: str, result: bytes) -> Latest:
    payload = read_envelope(method, result, "LatestEventSeqId")
    sequence = _integer(method, payload, "LatestEventSeqId")
    time = _read(method, payload, "SnapshotTime", str)
    try:
        return Latest(sequence, canonical_time(time))
    except ValueError as error:
        raise CallFailed(method, f"SnapshotTime {time[:40]!r} is no time: {error}") from None


def _page(method: str, most: int, result: bytes) -> EventsPage:
    payload = read_envelope(method, result, "Events")
    following = _read(method, payload, "ContinuationToken", str | None, otherwise=None)
    raw = bytes(payload.get("events", b""))
    if (commas := raw.count(b",")) > MOST_PARTS and commas > _COMMAS * raw.count(b"{"):
        raise CallFailed(method, f"the result's Events have {commas} commas, and hardly an object")
    events = _elements(method, payload, "Events")
    if len(events) > most:
        raise CallFailed(method, f"the result has {len(events)} events; of {most} at most could be made sense")
    return EventsPage(events, following or None)


def _strategies(method: str, result: bytes) -> SubscriptionAnswer:
    payload = read_envelope(method, result, "SuccessfulStrategies", "FailedStrategies")
    successful, failed = (
        tuple(_read(method, payload, name, list[int] | None, otherwise=None) or ())
        for name in ("SuccessfulStrategies", "FailedStrategies")
    )
    return SubscriptionAnswer(successful, failed)


def read_envelope(method: str, result: bytes, *names: str) -> _Members:
    """Return the payload's members by their folded names; `names` are members that only the payload has.

    Raises CallRejected for a status that is not success, or an error without a status, whatever stands beside it: of
    a call that failed the payload may be there, and empty. CallFailed for what is no envelope or has no payload. Where
    the payload's own members stand beside or without Status, the result is the payload.
    """
    envelope = _fold(method, result, "the result")
    status = _plain(envelope.get("status"))
    succeeded = status is not None and str(status).lower() in _SUCCESS
    if status is not None and not succeeded:
        raise _rejection(method, str(status), envelope)
    if not succeeded and _is_error(_plain(envelope.get("error"))):
        raise _rejection(method, "missing", envelope)
    if any(name.lower() in envelope for name in names):
        return envelope
    for name in _WRAPPERS:
        if name in envelope and not _is_null(envelope[name]):
            return _fold(method, envelope[name], f"the result's {name}")
    status_text = f"Status {status}" if succeeded else "no Status"
    raise CallFailed(method, f"the result has {status_text} and no data, only {_listed(envelope)}")


def _is_error(error: object) -> bool:
    """Return whether an error says anything."""
    return any(error.values()) if isinstance(error, dict) else bool(error)


def _rejection(method: str, status: str, envelope: _Members) -> CallRejected:
    error = _plain(envelope.get("error"))
    members = {folded(name): value for name, value in error.items()} if isinstance(error, dict) else {}
    validation = members.get("validationerrors")
    code = members.get("code")
    detail = members.get("detail") or _plain(envelope.get("message")) or (validation or error)
    return CallRejected(
        method,
        status[:_MAX_TEXT],
        None if code is None else str(code)[:_MAX_TEXT],
        None if detail is None else str(detail)[:_MAX_TEXT],
        fields=_fields(validation),
    )


def _fields(validation: object) -> tuple[str, ...]:
    """Return the arguments that ValidationErrors names: its keys, or those of a list's entries that name one."""
    if isinstance(validation, dict):
        return tuple(map(str, validation))
    if not isinstance(validation, list):
        return ()
    entries = [{folded(name): value for name, value in entry.items()} for entry in validation if _is_map(entry)]
    return tuple(str(entry[name]) for entry in entries for name in _FIELD_NAMES if entry.get(name))


def _is_map(value: object) -> bool:
    return isinstance(value, dict)


def _fold(method: str, raw: bytes | msgspec.Raw, what: str) -> _Members:
    try:
        members = _decode_members(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        salvaged = salvage.members(bytes(raw))
        if salvaged is not None:
            return {folded(name): msgspec.Raw(value) for name, value in salvaged.items()}
        raise CallFailed(method, f"{what} is not an object ({error}); it begins {bytes(raw)[:120]!r}") from None
    by_name = {folded(name): value for name, value in members.items()}
    if len(by_name) != len(members):
        raise CallFailed(method, f"{what} has members whose names differ only in their spelling: {_listed(members)}")
    return by_name


_REQUIRED: Final = object()


@cache
def _decoder_of(type_: Any) -> Callable[[msgspec.Raw], Any]:  # noqa: ANN401 - as it says
    """Return what decodes a member of one of a few types: to make it takes as long as to use it."""
    return msgspec.json.Decoder(type_, strict=False).decode  # a number may come as a text


def _read(method: str, payload: _Members, name: str, type_: Any, otherwise: object = _REQUIRED) -> Any:  # noqa: ANN401 - as `type_` says
    raw = payload.get(name.lower())
    if raw is None:
        if otherwise is _REQUIRED:
            raise CallFailed(method, f"the result has no {name}, only {_listed(payload)}")
        return otherwise
    try:
        return _decoder_of(type_)(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise CallFailed(method, f"the result's {name}: {error}") from None


def _integer(method: str, payload: _Members, name: str) -> int:
    """Read an integer of 64 bits, not negative: a number, `7.0` too, or a text with one; exact whatever its size."""
    raw = bytes(_read(method, payload, name, msgspec.Raw))
    try:
        return sequence_of(read(raw))
    except (PydanticCustomError, DecodeError) as error:
        raise CallFailed(method, f"the result's {name} is {raw[:_MAX_SHOWN]!r}: {error}") from None


def _elements(method: str, payload: _Members, name: str) -> list[bytes]:
    """Return the elements of a list as they came: one that is no JSON is its own trouble, not the page's."""
    try:
        return [bytes(element) for element in _read(method, payload, name, list[msgspec.Raw])]
    except CallFailed:
        salvaged = salvage.elements(bytes(payload.get(name.lower(), b"")))
        if salvaged is None:
            raise
        return salvaged


def _plain(raw: msgspec.Raw | None) -> Any:  # noqa: ANN401 - any JSON
    if raw is None:
        return None
    if len(raw) > _MAX_ERROR_BYTES:
        return bytes(raw)[:_MAX_TEXT].decode(errors="replace")
    try:
        return _decode_any(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return bytes(raw)[:_MAX_TEXT].decode(errors="replace")


def _is_null(raw: msgspec.Raw | None) -> bool:
    return raw is None or bytes(raw) == b"null"


def _listed(members: _Members) -> str:
    return ", ".join(sorted(members))[:_MAX_TEXT] or "nothing"
