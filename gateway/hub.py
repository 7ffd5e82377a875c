"""The hub's four methods and the envelope that their results come in. No retry, no state.

What the vendor's reference leaves open (casing, the envelope's exact fields, Status as a number or a name)
is read in every plausible form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.errors import CallFailed, CallRejected
from gateway.events.times import canonical_time
from gateway.signalr.connection import Connection

PATH: Final = "/hubs/event/v1"
_SUCCESS: Final = {"0", "success"}
_PAYLOAD_NAMES: Final = ("data", "payload", "result", "value")

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Subscription:
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


class Hub:
    """The hub's methods over one connection.

    Each raises CallFailed (also for a result that makes no sense), CallRejected, CallTimedOut, ConnectionLost.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def subscribe(self, strategies: Sequence[int] | None) -> Subscription:
        """Subscribe to `strategies`, or to all with None; an empty list does nothing."""
        return await self._subscription("SubscribeToStrategies", strategies)

    async def unsubscribe(self, strategies: Sequence[int] | None) -> Subscription:
        """Unsubscribe from `strategies`, or from all with None; an empty list does nothing."""
        return await self._subscription("UnsubscribeFromStrategies", strategies)

    async def latest(self) -> Latest:
        """Give the latest sequence and the hub's time."""
        method = "GetLatestEventSeqId"
        payload = await self._call(method, {})
        sequence = _read(method, payload, "latesteventseqid", int)
        time = _read(method, payload, "snapshottime", str)
        try:
            return Latest(sequence, canonical_time(time))
        except ValueError as error:
            raise CallFailed(method, f"SnapshotTime {time!r} is no time") from error

    async def events_since(self, since: int, limit: int, token: str | None) -> EventsPage:
        """Give the events after `since`, at most `limit`, going on at `token`."""
        method = "GetEventsSince"
        payload = await self._call(method, {"SinceEventSeqId": since, "Limit": limit, "ContinuationToken": token})
        envelopes = _read(method, payload, "events", list[msgspec.Raw])
        following = _read(method, payload, "continuationtoken", str | None) if "continuationtoken" in payload else None
        return EventsPage([bytes(envelope) for envelope in envelopes], following or None)

    async def _subscription(self, method: str, strategies: Sequence[int] | None) -> Subscription:
        payload = await self._call(method, {"Strategies": None if strategies is None else list(strategies)})
        return Subscription(
            successful=tuple(_read(method, payload, "successfulstrategies", list[int])),
            failed=tuple(_read(method, payload, "failedstrategies", list[int])),
        )

    async def _call(self, method: str, argument: dict[str, object]) -> dict[str, msgspec.Raw]:
        return read_envelope(method, await self._connection.call(method, argument))


def read_envelope(method: str, result: bytes) -> dict[str, msgspec.Raw]:
    """Give the payload's members by their names in lower case.

    Raises CallRejected for a status that is not success, CallFailed for what is no envelope. A result
    without Status is taken for the payload itself.
    """
    envelope = _fold(method, result)
    if "status" not in envelope:
        return envelope
    status = _any(envelope["status"])
    if str(status).lower() not in _SUCCESS:
        raise _rejection(method, str(status), envelope)
    for name in _PAYLOAD_NAMES:
        if name in envelope:
            return _fold(method, bytes(envelope[name]))
    return envelope


def _rejection(method: str, status: str, envelope: dict[str, msgspec.Raw]) -> CallRejected:
    message = _any(envelope.get("message"))
    error = _any(envelope.get("error"))
    members = {str(name).lower(): value for name, value in error.items()} if isinstance(error, dict) else {}
    validation = members.get("validationerrors")
    return CallRejected(
        method,
        status,
        None if members.get("code") is None else str(members["code"]),
        str(members.get("detail") or message or error),
        fields=tuple(validation) if isinstance(validation, dict) else (),
    )


def _fold(method: str, raw: bytes) -> dict[str, msgspec.Raw]:
    try:
        return {name.lower(): value for name, value in _members(raw).items()}
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise CallFailed(method, f"the result is not an object ({error}); it begins {raw[:120]!r}") from error


def _read(method: str, payload: dict[str, msgspec.Raw], name: str, type_: Any) -> Any:  # noqa: ANN401 - as `type_` says
    if name not in payload:
        raise CallFailed(method, f"the result has no {name}, only {sorted(payload)}")
    try:
        return msgspec.json.decode(payload[name], type=type_)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise CallFailed(method, f"the result's {name}: {error}") from error


def _any(raw: msgspec.Raw | None) -> object:
    if raw is None:
        return None
    try:
        value: object = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None
    return value
