"""The hub's four methods: arguments in, a raw JSON envelope or an error message out.

Texts and shapes are those recorded from a real ASP.NET Core hub.
"""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import dataclass
from random import shuffle
from typing import Annotated, Final, Self, TypeVar

import msgspec

from gateway.simulator.envelopes import Wrapping
from gateway.simulator.faults import HEALTHY, Failure, Faults
from gateway.simulator.user import Subscriber, User
from gateway.simulator.wire import Clock, Dictionary, Member, Tree, WireTime, encode, member_in, name_in

_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_VALIDATION: Final = Member("ValidationError", 3)
_SUCCESS: Final = Member("Success", 0)
_STATUSES: Final = {"number": b"0", "name": b'"Success"', "lower": b'"success"', "digits": b'"0"'}
_STEPS: Final = frozenset({"negotiate", "upgrade", "handshake"})


class CallError(Exception):
    """A call failed; its completion carries these words as its error."""


class _Strategies(msgspec.Struct):
    strategies: list[_Int] | None = None


class _Nothing(msgspec.Struct):
    pass


class _Since(msgspec.Struct):
    sinceeventseqid: _Int = 0
    limit: _Int = 0
    continuationtoken: str | None = None


_Args = TypeVar("_Args", bound=msgspec.Struct)


def delay(user: User, method: str) -> float:
    """Return the seconds that a call of `method`, or a step of connecting, is to take."""
    slow = user.faults.slow
    return slow.get(method, 0.0 if method in _STEPS else slow.get("*", 0.0))


def call(user: User, listener: Subscriber, method: str, arguments: list[bytes]) -> bytes:
    """Call a method and give its envelope as JSON; raises CallError."""
    run = _METHODS.get(method.lower())
    if run is None:
        raise CallError(
            f"Failed to invoke '{method}' due to an error on the server. HubException: Method does not exist."
        )
    for failure in user.failures:
        if failure.method in (method, "*"):
            failure.count -= 1
            user.failures = [other for other in user.failures if other.count > 0]
            return _fail(user, method, failure)
    user.counts[method] += 1
    return run(user, listener, method, arguments)


def _fail(user: User, method: str, failure: Failure) -> bytes:
    if failure.hub_exception is not None:
        message = (
            f"An unexpected error occurred invoking '{method}' on the server. HubException: {failure.hub_exception}"
        )
        raise CallError(message)
    return _refused(user, Member(failure.status, failure.status_number), failure.code, failure.detail)


def _subscribe(user: User, listener: Subscriber, method: str, arguments: list[bytes]) -> bytes:
    args = _bind(method, arguments, _Strategies)
    wanted = list(user.strategies) if args.strategies is None else args.strategies
    possible = set(user.strategies) - set(user.faults.failed_strategies)
    done = [strategy for strategy in wanted if strategy in possible]
    listener.strategies.update(done)
    return _strategies(user, done, [strategy for strategy in wanted if strategy not in possible])


def _unsubscribe(user: User, listener: Subscriber, method: str, arguments: list[bytes]) -> bytes:
    args = _bind(method, arguments, _Strategies)
    wanted = list(user.strategies) if args.strategies is None else args.strategies
    done = [strategy for strategy in wanted if strategy in user.strategies]
    if args.strategies is None:
        listener.strategies.clear()
    listener.strategies.difference_update(wanted)
    return _strategies(user, done, [strategy for strategy in wanted if strategy not in user.strategies])


def _strategies(user: User, done: list[int], failed: list[int]) -> bytes:
    data: Tree = {"SuccessfulStrategies": list(done), "FailedStrategies": list(failed)}
    return _success(user, encode(data, user.style))


def _latest(user: User, _listener: Subscriber, method: str, arguments: list[bytes]) -> bytes:
    _bind(method, arguments, _Nothing)
    clock = Clock()
    latest = user.history.latest(user.faults, time.monotonic())
    data: Tree = {"LatestEventSeqId": latest, "SnapshotTime": WireTime(clock.write(clock.now()).decode())}
    return _success(user, encode(data, user.style))


def _since(user: User, _listener: Subscriber, method: str, arguments: list[bytes]) -> bytes:
    args = _bind(method, arguments, _Since)
    faults, history = user.faults, user.history
    if not 1 <= args.limit <= faults.max_events_limit:
        message = f"Limit must be between 1 and {faults.max_events_limit}"
        return _refused(user, _VALIDATION, "VALIDATION", message, "Limit")
    place = _Place(args.sinceeventseqid, empty=faults.empty_start)
    if args.continuationtoken:
        try:
            place = _Place.read(args.continuationtoken, faults.page_token_seconds)
        except ValueError:
            message = "ContinuationToken is not one that the server gave"
            return _refused(user, _VALIDATION, "VALIDATION", message, "ContinuationToken")
    if place.empty:
        return _page(user, [], _Place(place.since, place.empty - 1).token(faults))
    indices, more = history.page(place.since, args.limit, faults, time.monotonic())
    if not {history.sequences[index] for index in indices}.isdisjoint(faults.unservable):
        raise CallError(f"An unexpected error occurred invoking '{method}' on the server.")
    last = history.sequences[indices[-1]] if indices else place.since
    if more:
        token = _Place(last, faults.empty_pages).token(faults)
    else:
        match faults.page_end:
            case "repeat":
                token = _Place(last).token()
            case "fresh":
                token = _Place(last).token(faults, fresh=True)
            case _:
                token = None
    if faults.pages_unsorted:
        shuffle(indices)
    wrapping = Wrapping(faults, user.form)
    user.counts["history events"] += len(indices)
    return _page(user, [history.entry(index, wrapping) for index in indices], token)


def _page(user: User, entries: list[bytes], token: str | None) -> bytes:
    style, end = user.style, user.faults.page_end
    events = b'"%b":[%b]' % (name_in(style.form, "Events").encode(), b",".join(entries))
    if token is None and (end == "missing" or user.faults.nulls_left_out):
        return _success(user, b"{%b}" % events)
    if token is None and end == "empty":
        token = ""
    return _success(
        user, b'{%b,"%b":%b}' % (events, name_in(style.form, "ContinuationToken").encode(), encode(token, style))
    )


_METHODS: Final = {
    "subscribetostrategies": _subscribe,
    "unsubscribefromstrategies": _unsubscribe,
    "getlatesteventseqid": _latest,
    "geteventssince": _since,
}
"""By lower-case name: ASP.NET Core finds methods whatever their case."""


def _bind(method: str, arguments: list[bytes], model: type[_Args]) -> _Args:
    """Bind the one argument: names in any case, unknown ones ignored."""
    failed = f"Failed to invoke '{method}' due to an error on the server."
    if len(arguments) != 1:
        raise CallError(failed)
    try:
        members = msgspec.json.decode(arguments[0])
        if members is None:
            raise CallError(f"An unexpected error occurred invoking '{method}' on the server.")
        if not isinstance(members, dict):
            raise CallError(failed)
        return msgspec.convert({str(name).lower(): value for name, value in members.items()}, model)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CallError(failed) from error


def _success(user: User, data: bytes) -> bytes:
    faults, form = user.faults, user.form
    if faults.answer_bare:
        return data
    status, message, error, name = (
        name_in(form, member).encode() for member in ("Status", "Message", "Error", faults.answer_data)
    )
    nulls = b"" if faults.nulls_left_out else b'"%b":null,"%b":null,' % (message, error)
    rest = b'%b"%b":%b}' % (nulls, name, data)
    if faults.answer_status == "absent":
        return b"{" + rest
    return b'{"%b":%b,%b' % (status, _STATUSES.get(faults.answer_status) or member_in(form, _SUCCESS).encode(), rest)


def _refused(user: User, status: Member, code: str, message: str, invalid: str | None = None) -> bytes:
    """Write an envelope that refuses; `invalid` names the argument to blame."""
    user.counts["refused"] += 1
    errors = None if invalid is None else Dictionary({invalid: [message]})
    error: Tree = {"Code": code, "Detail": message, "Provider": None, "ValidationErrors": errors}
    return encode({"Status": status, "Message": message, "Error": error, "Data": None}, user.style)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a page begins: after a sequence id, and after some pages without events."""

    since: int
    empty: int = 0

    def token(self, faults: Faults = HEALTHY, *, fresh: bool = False) -> str:
        """Return the token that leads here; one that expires or is fresh has its time in it."""
        parts = f"v1:{self.since}"
        timed = fresh or faults.page_token_seconds is not None
        if timed or self.empty:
            parts += f":{self.empty}"
        if timed:
            parts += f":{time.monotonic_ns()}"
        return base64.b64encode(parts.encode()).decode()

    @classmethod
    def read(cls, token: str, lifetime: float | None) -> Self:
        """Raises ValueError for a foreign or expired token."""
        try:
            version, since, *rest = base64.b64decode(token, validate=True).decode().split(":")
        except binascii.Error as error:
            raise ValueError(token) from error
        if version != "v1":
            raise ValueError(token)
        empty, given = (*map(int, rest), 0, 0)[:2]
        if lifetime is not None and given and time.monotonic_ns() - given > lifetime * 1e9:
            raise ValueError(token)
        return cls(int(since), empty)
