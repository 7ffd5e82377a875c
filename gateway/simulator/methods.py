"""The hub's four methods: arguments in, a raw JSON envelope or an error's words out.

Texts and shapes are those recorded from a real ASP.NET Core hub.
"""

from __future__ import annotations

import base64
import binascii
import time
from typing import Annotated, Final, TypeVar

import msgspec

from gateway.simulator.events import CALLBACKS
from gateway.simulator.faults import Failure
from gateway.simulator.hub import Listener, User
from gateway.simulator.wire import Clock, Dictionary, Form, Member, Tree, encode, name_in

_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_VALIDATION: Final = Member("ValidationError", 3)
_EVENT_TYPES: Final = tuple(
    (b"AgentStatus" if name == "OnAgentStatusChange" else name.removeprefix("On").encode()) for name in CALLBACKS
)
"""What the history calls a kind: its model's name without Event, which is the callback's but for one."""


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
    """Give the seconds that a call of `method` is to take."""
    slow = user.faults.slow
    return slow.get(method, slow.get("*", 0.0))


def call(user: User, listener: Listener, method: str, arguments: list[bytes]) -> bytes:
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
        words = f"An unexpected error occurred invoking '{method}' on the server. HubException: {failure.hub_exception}"
        raise CallError(words)
    return _refused(user.form, Member(failure.status, failure.status_number), failure.code, failure.detail)


def _subscribe(user: User, listener: Listener, method: str, arguments: list[bytes]) -> bytes:
    args = _bind(method, arguments, _Strategies)
    wanted = list(user.strategies) if args.strategies is None else args.strategies
    done = [strategy for strategy in wanted if strategy in user.strategies]
    listener.strategies.update(done)
    return _strategies(user, done, [strategy for strategy in wanted if strategy not in user.strategies])


def _unsubscribe(user: User, listener: Listener, method: str, arguments: list[bytes]) -> bytes:
    args = _bind(method, arguments, _Strategies)
    wanted = list(user.strategies) if args.strategies is None else args.strategies
    done = [strategy for strategy in wanted if strategy in user.strategies]
    if args.strategies is None:
        listener.strategies.clear()
    listener.strategies.difference_update(wanted)
    return _strategies(user, done, [strategy for strategy in wanted if strategy not in user.strategies])


def _strategies(user: User, done: list[int], failed: list[int]) -> bytes:
    data: Tree = {"SuccessfulStrategies": list(done), "FailedStrategies": list(failed)}
    return _success(user.form, encode(data, user.form))


def _latest(user: User, _listener: Listener, method: str, arguments: list[bytes]) -> bytes:
    _bind(method, arguments, _Nothing)
    clock = Clock()
    latest = user.history.latest(user.faults, time.monotonic())
    data: Tree = {"LatestEventSeqId": latest, "SnapshotTime": clock.write(clock.now()).decode()}
    return _success(user.form, encode(data, user.form))


def _since(user: User, _listener: Listener, method: str, arguments: list[bytes]) -> bytes:
    args = _bind(method, arguments, _Since)
    form, faults, history = user.form, user.faults, user.history
    if not 1 <= args.limit <= faults.max_events_limit:
        words = f"Limit must be between 1 and {faults.max_events_limit}"
        return _refused(form, _VALIDATION, "VALIDATION", words, "Limit")
    since = args.sinceeventseqid
    if args.continuationtoken:
        try:
            since = _position(args.continuationtoken)
        except ValueError:
            words = "ContinuationToken is not one that the server gave"
            return _refused(form, _VALIDATION, "VALIDATION", words, "ContinuationToken")
    indices, more = history.page(since, args.limit, faults, time.monotonic())
    last = history.sequences[indices[-1]] if indices else since
    token = _token(last) if more or faults.repeat_token else "" if faults.empty_end_token else None
    events = b",".join([envelope(form, history.callbacks[index], history.payloads[index]) for index in indices])
    user.counts["history events"] += len(indices)
    names = (name_in(form, "Events").encode(), events, name_in(form, "ContinuationToken").encode(), encode(token, form))
    return _success(form, b'{"%b":[%b],"%b":%b}' % names)


def envelope(form: Form, callback: int, payload: bytes) -> bytes:
    """Wrap a payload as the history does: its kind, a copy of the base class's members, and itself."""
    tail = payload[payload.rindex(b'"', 0, payload.rindex(b'ventId":"')) : -1]
    kind, body = (b'"EventType"', b'"Payload"') if form is Form.PASCAL_STRING else (b'"eventType"', b'"payload"')
    return b'{%b:"%b",%b,%b:%b}' % (kind, _EVENT_TYPES[callback], tail, body, payload)


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


def _success(form: Form, data: bytes) -> bytes:
    if form is Form.PASCAL_STRING:
        return b'{"Status":"Success","Message":null,"Error":null,"Data":%b}' % data
    return b'{"status":0,"message":null,"error":null,"data":%b}' % data


def _refused(form: Form, status: Member, code: str, words: str, invalid: str | None = None) -> bytes:
    """Write an envelope that refuses; `invalid` names the argument to blame."""
    errors = None if invalid is None else Dictionary({invalid: [words]})
    error: Tree = {"Code": code, "Detail": words, "Provider": None, "ValidationErrors": errors}
    return encode({"Status": status, "Message": words, "Error": error, "Data": None}, form)


def _token(sequence: int) -> str:
    return base64.b64encode(b"v1:%d" % sequence).decode()


def _position(token: str) -> int:
    """Raises ValueError for a token that is none of ours."""
    try:
        version, _, position = base64.b64decode(token, validate=True).partition(b":")
    except binascii.Error as error:
        raise ValueError(token) from error
    if version != b"v1":
        raise ValueError(token)
    return int(position)
