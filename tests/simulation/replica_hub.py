"""A hub for whole replicas: many users, one of whom may be in trouble, and the wire's bytes without a wire."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from random import Random
from typing import Any, Final, NoReturn, cast

import msgspec

from gateway.errors import CallFailed, CallTimedOut, ConnectFailed, ConnectionLost, Unauthorized
from gateway.signalr.connection import HubConnection
from gateway.signalr.intake import OnPush, Pause
from tests.simulation.virtual import EPOCH, Machine, machine_of

CALL_TIMEOUT: Final = 4.0
_LATENCY: Final = 0.02
_MASKED: Final = "An unexpected error occurred invoking '{}' on the server."

TARGET: Final = "OnOrderUpdate"


@dataclass(slots=True)
class Trouble:
    """What is wrong with one user's hub just now."""

    history_fails: bool = False
    """GetEventsSince has an error for an answer."""
    hangs: bool = False
    """No call is answered."""
    slow: float = 0.0
    """Seconds that each call takes."""
    rate_limited: bool = False
    """Calls have an error that speaks of a limit of calls."""
    refuses: bool = False
    """The key is refused."""
    away: bool = False
    """No connection is made."""
    is_another: bool = False
    """It shows another history."""
    unpushed: bool = False
    """Nothing is pushed."""

    @property
    def is_any(self) -> bool:
        """Whether anything is wrong."""
        return self != Trouble()


@dataclass(slots=True)
class Happening:
    """An event as the hub has it."""

    sequence: int
    at: float
    """When it was stored, in virtual seconds."""
    payload: bytes


def text_of(moment: float) -> str:
    """Return a moment of the simulation as the hub writes it."""
    return datetime.fromtimestamp(EPOCH + moment, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class Bug:
    """Errors that nobody expects, where code of the gateway waits for something of one account or one shard."""

    dice: Random
    chance: float = 0.0
    """The part of the crossings at which one is raised."""
    at: int | None = None
    """The crossing, counted from 0, at which one is raised, once."""
    crossings: int = 0

    def cross(self, where: str) -> None:
        """Raise what nobody expects, or nothing."""
        self.crossings += 1
        if self.at == self.crossings - 1 or (self.chance and self.dice.random() < self.chance):
            raise PlantedError(f"planted at {where}")


class PlantedError(Exception):
    """No error that the gateway knows."""


@dataclass
class User:
    """One account at the hub."""

    name: str
    happenings: list[Happening] = field(default_factory=list)
    trouble: Trouble = field(default_factory=Trouble)
    connections: list[FakeConnection] = field(default_factory=list)
    connects: int = 0
    cried: list[bytes] = field(default_factory=list)
    """Payloads that were pushed to a callback that nobody knows."""
    bug: Bug | None = None

    def cross(self, where: str) -> None:
        """Let an error happen that nobody expects, where one is planted."""
        if self.bug is not None:
            self.bug.cross(where)

    def emit(self, size: int = 0, *, is_pushed: bool = True) -> None:
        """Let something happen, of about `size` bytes more than usual, and push it unless that push is lost."""
        now, sequence = asyncio.get_running_loop().time(), len(self.happenings) + 1
        payload = _payload(self.name, sequence, now, size)
        self.happenings.append(Happening(sequence, now, payload))
        if is_pushed:
            self._push(TARGET, payload)

    def cry(self, target: str, count: int) -> None:
        """Push something to a callback that nobody knows, so many times; no history has it."""
        for number in range(len(self.cried), len(self.cried) + count):
            self.cried.append(b"%d" % number)
            self._push(target, self.cried[-1])

    def _push(self, target: str, payload: bytes) -> None:
        if not (self.trouble.unpushed or self.trouble.hangs or self.trouble.is_another):
            for connection in self.connections:
                connection.push(target, payload)

    def drop(self, machine: Machine | None = None) -> None:
        """End all connections, or those of one machine."""
        for connection in [*self.connections]:
            if machine is None or connection.machine is machine:
                connection.end("dropped")

    def shown(self, since: int, limit: int) -> list[bytes]:
        """Return the payloads of a page of the history that is shown now."""
        found = self.happenings[since : since + limit]
        if not self.trouble.is_another:
            return [one.payload for one in found]
        return [_payload(f"not-{self.name}", one.sequence, one.at, 0) for one in found]


def id_of(name: str, sequence: int) -> str:
    """Return the EventId of an event, which names its user too."""
    return f"{sum(name.encode()):08x}-0000-4000-8000-{sequence:012x}"


def _payload(name: str, sequence: int, at: float, size: int) -> bytes:
    return (
        f'{{"OrderId":{sequence},"BrokerAccountId":null,"ExecPlanId":null,"LegGroupId":null,"StrategyId":1,'
        f'"StrategyName":"{name}{"x" * size}","State":1,"FilledQty":null,"RemainingQty":null,"FillPrice":null,'
        f'"AvgFillPrice":null,"Rejection":null,"EventId":"{id_of(name, sequence)}","EventSeqId":{sequence},'
        f'"EventTime":"{text_of(at)}"}}'
    ).encode()


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class FakeConnection:
    """The surface of `gateway.signalr.connection.HubConnection`, without a socket; one method runs at a time."""

    unfinished = 0

    def __init__(self, user: User) -> None:
        self.user = user
        self.machine = machine_of()
        self.last_received_at = asyncio.get_running_loop().time()
        self._pushed: deque[tuple[str, bytes]] = deque()
        self._came = asyncio.Event()
        self._waiting: asyncio.Future[None] | None = None
        """The call that waits for its answer."""
        self._reason = ""
        self._is_subscribed = False
        self._turn = asyncio.Lock()

    def push(self, target: str, payload: bytes) -> None:
        """Let the hub push something."""
        if self._is_subscribed and not self._reason:
            self._pushed.append((target, payload))
            self._came.set()

    def end(self, reason: str) -> None:
        """End the connection, from either side."""
        if not self._reason:
            self._reason = reason
            if self in self.user.connections:
                self.user.connections.remove(self)
            self._came.set()
            if self._waiting is not None:
                _wake(self._waiting)

    @property
    def _end(self) -> ConnectionLost:
        return ConnectionLost(f"the connection ended: {self._reason}", reason=self._reason)

    async def run(self, on_push: OnPush, pause: Pause = lambda: None, at_sight: object = None) -> NoReturn:  # noqa: ARG002
        """Read until the end."""
        while not self._reason:
            await self._came.wait()
            self._came.clear()
            while self._pushed and not self._reason:
                self.last_received_at = asyncio.get_running_loop().time()
                self.user.cross("a push")
                target, payload = self._pushed.popleft()
                on_push(target, [payload])
                rest = pause()
                if rest is not None:
                    await rest
        raise self._end

    async def call(self, method: str, argument: dict[str, Any]) -> bytes:
        """Call a method, as the hub's state is."""
        self.user.cross(f"{method}, before")
        ends = asyncio.get_running_loop().time() + CALL_TIMEOUT
        if self._turn.locked():
            try:
                async with asyncio.timeout_at(ends):
                    await self._turn.acquire()
            except TimeoutError:
                raise CallTimedOut(method, CALL_TIMEOUT) from None
        else:
            await self._turn.acquire()  # at once
        try:
            answer = await self._answer(method, argument, ends)
        finally:
            self._turn.release()
        self.last_received_at = asyncio.get_running_loop().time()
        self.user.cross(f"{method}, after")
        return answer

    async def _until(self, when: float) -> None:
        """Wait; raises ConnectionLost where the connection ends before."""
        if not self._reason:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_at(when, _wake, self._waiting)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        if self._reason:
            raise self._end

    async def _answer(self, method: str, argument: dict[str, Any], ends: float) -> bytes:
        trouble = self.user.trouble
        at = inf if trouble.hangs else asyncio.get_running_loop().time() + _LATENCY + trouble.slow
        await self._until(min(at, ends))
        if at > ends:
            raise CallTimedOut(method, CALL_TIMEOUT)
        if trouble.rate_limited:
            raise CallFailed(method, "HubException: the limit is at most 10 requests a second")
        if method == "GetEventsSince":
            if trouble.history_fails:
                raise CallFailed(method, _MASKED.format(method))
            return self._page(argument["SinceEventSeqId"], argument["Limit"])
        if method == "GetLatestEventSeqId":
            now = asyncio.get_running_loop().time()
            return _result({"LatestEventSeqId": len(self.user.happenings), "SnapshotTime": text_of(now)})
        self._is_subscribed = method == "SubscribeToStrategies"
        return _result({"SuccessfulStrategies": [1], "FailedStrategies": []})

    def _page(self, since: int, limit: int) -> bytes:
        found = self.user.shown(since, limit)
        events = b",".join([b'{"EventType":"OrderUpdate","Payload":%b}' % payload for payload in found])
        return b'{"Status":"Success","Data":{"Events":[%b],"ContinuationToken":null}}' % events

    def give_up(self, why: str) -> NoReturn:
        """See HubConnection."""
        self.end("call")
        raise ConnectionLost(f"the connection is of no use: {why}", reason="call")

    def shown(self, text: str) -> str:
        """See HubConnection."""
        return text

    async def close(self) -> None:
        """See HubConnection."""
        self.end("closed")
        await asyncio.sleep(0)
        self.user.cross("close")


def _result(data: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"Status": "Success", "Data": data})


class FakeHub:
    """All users, by their keys."""

    def __init__(self, names: list[str]) -> None:
        self.users = {name: User(name) for name in names}

    def connector(self) -> Callable[[str, str, Callable[[str], None]], Awaitable[HubConnection]]:
        """Return what connects a replica."""

        async def connect(_url: str, key: str, _passed: Callable[[str], None]) -> HubConnection:
            user = self.users[key.removeprefix("key-of-")]
            await asyncio.sleep(_LATENCY)
            user.cross("connect")
            if user.trouble.away:
                raise ConnectFailed("negotiate: no answer", reason="unreachable")
            if user.trouble.refuses:
                raise Unauthorized("negotiate: the hub answered 401", reason="unauthorized")
            user.connects += 1
            connection = FakeConnection(user)
            user.connections.append(connection)
            return cast("HubConnection", connection)

        return connect
