"""What the wires between a gateway and Kafka tell of its transactions: which are in flight, and which came too late.

A trap strikes at a transaction with events of which the broker has something and whose outcome the gateway does not
know: `stored` when a leader has stored events and says so, `ending` when the gateway asks the coordinator to commit,
`ended` when the coordinator says that it has. What was caught is kept from the other side until it is let go.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from tests.support.kafka_proxy import Api, Wire

How = Literal["stored", "ending", "ended"]
TIMEOUT_S: Final = 60.0
"""Seconds until a transaction must have come by to be struck."""
_LOG_START: Final = 5
_DETAILS: Final = 8
"""Versions from which on an answer to PRODUCE has more for each partition."""
_COUNT: Final = 57
_WRITER: Final = 43
"""Places of the number of records, and of producer id and epoch, in a batch of records."""


@dataclass(frozen=True)
class Catch:
    """What a trap caught: the proof that something struck while a transaction was in flight."""

    how: How
    port: int
    """The wire, and so the broker: the leader of a partition for `stored`, else the transaction's coordinator."""
    id: str
    """The transactional id."""
    events: int
    """Events that were sent in it."""
    in_flight: int
    """Transactions with events, this one included, whose outcome the gateway did not know."""
    code: int
    """What the broker said: 0 is success; -1 where it was not asked."""


@dataclass(frozen=True)
class Late:
    """A write by a producer that is not the newest of its name, and what the broker said."""

    api: Api
    code: int


@dataclass(frozen=True)
class _Write:
    """A request that belongs to a transaction."""

    api: Api
    id: str
    writer: tuple[int, int]
    """Producer id and epoch."""
    events: int = 0
    commits: bool = False


@dataclass
class _Trap:
    how: How
    strike: Callable[[Catch], None]
    skip: int
    caught: asyncio.Future[Catch]


@dataclass
class Flights:
    """Watches all wires of a cluster (`tests.support.kafka_proxy.Watch`)."""

    late: list[Late] = field(default_factory=list)
    _events: dict[str, int] = field(default_factory=dict)
    """Events in flight, by transactional id."""
    _senders: dict[str, tuple[Wire, int]] = field(default_factory=dict)
    """Over which wire they were sent, and from which port."""
    _newest: dict[str, tuple[int, int]] = field(default_factory=dict)
    _trap: _Trap | None = None
    _kept: asyncio.Event = field(default_factory=asyncio.Event)

    async def strike(self, how: How, strike: Callable[[Catch], None], *, skip: int = 0) -> Catch:
        """Let `strike` happen to a transaction, once `skip` others have gone by; return what it hit."""
        caught: asyncio.Future[Catch] = asyncio.get_running_loop().create_future()
        self._trap = _Trap(how, strike, skip, caught)
        async with asyncio.timeout(TIMEOUT_S):
            return await caught

    def in_flight(self, process: int) -> int:
        """Count the events of a process in transactions whose outcome it does not know."""
        return sum(events for name, events in self._events.items() if self._is_of(process, name))

    def _is_of(self, process: int, name: str) -> bool:
        wire, port = self._senders[name]
        return wire.gates.belongs(port, process)

    def let_go(self) -> None:
        """Send on what was caught."""
        self._kept.set()
        self._kept = asyncio.Event()

    async def request(self, wire: Wire, port: int, frame: bytes) -> None:
        """See a request."""
        write = _write_of(frame)
        if write is None:
            if _api(frame) == Api.INIT_PRODUCER_ID:
                self._events.pop(_Reader(frame, body=True).text(), None)  # whatever it was, it is no more
            return
        if write.events:
            self._events[write.id] = self._events.get(write.id, 0) + write.events
            self._senders[write.id] = wire, port
        if write.commits and self._springs("ending", write):
            await self._spring(wire, write, -1)

    async def answer(self, wire: Wire, request: bytes, frame: bytes) -> None:
        """See the answer to a request."""
        write = _write_of(request)
        if write is None:
            if _api(request) == Api.INIT_PRODUCER_ID:
                self._begun(_Reader(request, body=True).text(), frame)
            return
        code = _code_of(write.api, int.from_bytes(request[2:4]), frame)
        if write.writer < self._newest.get(write.id, write.writer):
            self.late.append(Late(write.api, code))
            return
        if code == 0 and write.events and self._springs("stored", write):
            await self._spring(wire, write, code)
        if code == 0 and write.commits:
            if self._springs("ended", write):
                await self._spring(wire, write, code)
            self._events.pop(write.id, None)

    def _begun(self, name: str, frame: bytes) -> None:
        _, code, producer, epoch = struct.unpack_from(">ihqh", frame, 4)
        if code == 0:
            self._newest[name] = (producer, epoch)

    def _springs(self, how: How, write: _Write) -> bool:
        trap = self._trap
        if trap is None or trap.how != how or not self._events.get(write.id):
            return False
        trap.skip -= 1
        return trap.skip < 0

    async def _spring(self, wire: Wire, write: _Write, code: int) -> None:
        trap, self._trap = self._trap, None
        assert trap is not None
        catch = Catch(trap.how, wire.port, write.id, self._events[write.id], len(self._events), code)
        kept = self._kept
        trap.strike(catch)
        if not trap.caught.done():
            trap.caught.set_result(catch)
        await kept.wait()


class _Reader:
    """Reads the parts of a request one after the other."""

    def __init__(self, frame: bytes, *, body: bool) -> None:
        self._frame = frame
        self.place = 8
        if body:
            self.text()  # who asks

    def number(self, kind: str) -> int:
        """Read a number, in the words of `struct`."""
        (value,) = struct.unpack_from(f">{kind}", self._frame, self.place)
        self.place += struct.calcsize(f">{kind}")
        return int(value)

    def text(self) -> str:
        """Read a string; none is an empty one."""
        size = max(0, self.number("h"))
        self.place += size
        return self._frame[self.place - size : self.place].decode()


def _api(frame: bytes) -> int:
    return int.from_bytes(frame[:2])


def _write_of(frame: bytes) -> _Write | None:
    """Return what a request does to a transaction.

    aiokafka sends versions 3 to 8 of PRODUCE, and 0 of the others; newer ones are those of nodes among themselves.
    """
    api, version = _api(frame), int.from_bytes(frame[2:4])
    if api in {Api.ADD_PARTITIONS, Api.END_TXN} and version == 0:
        reader = _Reader(frame, body=True)
        name, writer = reader.text(), (reader.number("q"), reader.number("h"))
        return _Write(Api(api), name, writer, commits=api == Api.END_TXN and reader.number("b") == 1)
    if api != Api.PRODUCE:
        return None
    reader = _Reader(frame, body=True)
    name = reader.text()
    reader.place += 6  # acks and timeout
    events, writer = 0, (-1, -1)
    for _ in range(reader.number("i")):
        topic = reader.text()
        for _ in range(reader.number("i")):
            reader.number("i")
            size = reader.number("i")
            writer = struct.unpack_from(">qh", frame, reader.place + _WRITER)
            if topic.endswith(".v1"):
                (count,) = struct.unpack_from(">i", frame, reader.place + _COUNT)
                events += count
            reader.place += size
    return _Write(Api.PRODUCE, name, writer, events) if name else None


def _code_of(api: Api, version: int, frame: bytes) -> int:
    """Return the first error that an answer names, 0 where all is well."""
    if api == Api.END_TXN:
        return int.from_bytes(frame[8:10], signed=True)
    reader = _Reader(frame, body=False)
    reader.place = 4 if api == Api.PRODUCE else 8
    for _ in range(reader.number("i")):
        reader.text()
        for _ in range(reader.number("i")):
            reader.number("i")
            code = reader.number("h")
            if code:
                return code
            if api == Api.PRODUCE:
                reader.place += 24 if version >= _LOG_START else 16  # offset, time, start of the log
                if version >= _DETAILS:
                    reader.place += 6  # no culprits, no words
    return 0
