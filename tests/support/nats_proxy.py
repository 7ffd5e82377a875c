"""A wire between the gateway and NATS that knows when a commit is in flight, and can strike at that very moment.

It reads just enough of the NATS protocol to see the messages of atomic batches go by, and their answers. A trap
catches the next batch of events and lets something happen to it: `half` keeps its last message and strikes once the
server has opened the batch, so that it can never be stored; `unanswered` strikes once the server says that the batch
is stored, and keeps that answer. Answers can also be held back for a while, as a broker with a slow disk would, and
one process can be cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from tests.support.sockets import Gates

How = Literal["half", "unanswered"]
TIMEOUT_S: Final = 30.0
"""Seconds until a commit must have come by to be struck."""


@dataclass
class Flight:
    """A batch whose first message is on its way and whose answer the gateway has not."""

    id: str
    answer_to: bytes
    events: int = 0
    is_open: bool = False
    """Whether the server has taken its first message."""


@dataclass(frozen=True)
class Catch:
    """What a trap caught: the proof that something struck while a commit was in flight."""

    how: How
    batch: str
    events: int
    in_flight: int
    """Batches, this one included, of which the server had something and the gateway had no answer."""
    stored_at: int | None
    """The stream sequence at which the server says the batch is stored; None where it cannot be."""


@dataclass
class _Trap:
    how: How
    skip: int
    strike: Callable[[], None]
    caught: asyncio.Future[Catch]
    flight: Flight | None = None


@dataclass
class Wire:
    """The proxy; a context."""

    target: Callable[[], int]
    """The port of the server on loopback."""
    acknowledged: int = 0
    """Events in batches whose good answer was passed on to the gateway, or is held."""
    flights: dict[str, Flight] = field(default_factory=dict)
    gates: Gates = field(default_factory=Gates)
    _links: list[_Link] = field(default_factory=list)
    _trap: _Trap | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _failures: list[BaseException] = field(default_factory=list)
    _held: list[tuple[asyncio.StreamWriter, bytes]] | None = None

    @property
    def url(self) -> str:
        """Where the gateway connects."""
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=2**20)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cut everything."""
        assert self._server is not None
        self._server.close()
        self.gates.mend()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()
        if self._failures:
            raise self._failures[0]

    def cut(self) -> None:
        """Drop all connections, of both sides, without a word."""
        for writer in self._writers:
            writer.transport.abort()

    def in_flight(self, process: int) -> int:
        """Count the events of a process that the server has been told of and it has no answer for."""
        links = [link for link in self._links if link.flights and self.gates.belongs(link.port, process)]
        return sum(self.flights[batch].events for link in links for batch in link.flights)

    def hold(self) -> None:
        """Keep the good answers to batches from now on; everything else passes."""
        self._held = []

    def release(self) -> None:
        """Pass on what was kept."""
        held, self._held = self._held or [], None
        for writer, answer in held:
            writer.write(answer)

    async def strike(self, how: How, strike: Callable[[], None], *, skip: int = 0) -> Catch:
        """Let `strike` happen to a batch of events, once `skip` others have gone by; return what it hit."""
        trap = _Trap(how, skip, strike, asyncio.get_running_loop().create_future())
        self._trap = trap
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await trap.caught
        except TimeoutError:
            flying = f"{self.acknowledged} events are acknowledged, in flight are {list(self.flights.values())}"
            raise AssertionError(f"no commit to strike within {TIMEOUT_S:g} s: {flying}") from None
        finally:
            self._trap = None

    # Forwarding -----------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        server: asyncio.StreamWriter | None = None
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.target())
            self._writers.add(server)
            port = writer.get_extra_info("peername")[1]
            link = _Link(writer, port, self.gates.begin(port))
            self._links.append(link)
            ways = {
                asyncio.create_task(_pump(link, reader, server, _client_frames, lambda frame: self._sent(link, frame))),
                asyncio.create_task(
                    _pump(link, answers, writer, _server_frames, lambda frame: self._answered(link, frame))
                ),
            }
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
            self._failures += [error for way in ways if not way.cancelled() and (error := way.exception())]
            for flight in link.flights:
                self.flights.pop(flight, None)
            self._links.remove(link)
            self.gates.end(port)
        except OSError:
            pass  # the server is away: so is what stands before it
        finally:
            for end in (writer, server):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()

    def _sent(self, link: _Link, frame: bytes) -> bool:
        """See a message of the gateway; give whether to forward it."""
        if link.is_dead:
            return False
        head = _batch_head(frame)
        if head is None:
            return True
        batch, tokens = head["Nats-Batch-Id"], frame[: frame.index(b"\r\n")].split()
        flight = self.flights.setdefault(batch, Flight(batch, answer_to=tokens[2]))  # the first has a reply subject
        link.flights.add(batch)
        flight.events += b".events." in tokens[1]
        if "Nats-Batch-Commit" not in head:
            return True
        trap = self._trap
        if trap is None or trap.flight or not flight.events:
            return True
        if trap.skip:
            trap.skip -= 1
            return True
        trap.flight = flight
        if trap.how == "unanswered":
            return True
        link.keeps = True
        if flight.is_open:
            self._spring(trap, link, None)
        return False

    def _answered(self, link: _Link, frame: bytes) -> bool:
        """See a message of the server; give whether to forward it."""
        if link.is_dead:
            return False
        subject = frame[: frame.index(b"\r\n")].split()[1:2]
        flight = next((one for one in self.flights.values() if [one.answer_to] == subject), None)
        if flight is None:
            return True
        trap = self._trap if self._trap is not None and self._trap.flight is flight else None
        stored_at = _stored_at(frame, flight.id)
        if stored_at is None:
            flight.is_open = True
            if trap is not None and link.keeps:
                self._spring(trap, link, None)
            return True
        if trap is not None:
            self._spring(trap, link, stored_at)
            return False
        del self.flights[flight.id]
        link.flights.discard(flight.id)
        self.acknowledged += flight.events
        if self._held is not None:
            self._held.append((link.gateway, frame))
            return False
        return True

    def _spring(self, trap: _Trap, link: _Link, stored_at: int | None) -> None:
        link.is_dead = True
        self._trap = None
        assert trap.flight is not None
        catch = Catch(trap.how, trap.flight.id, trap.flight.events, len(self.flights), stored_at)
        trap.strike()
        if not trap.caught.done():
            trap.caught.set_result(catch)


@dataclass(eq=False)
class _Link:
    """One connection of the gateway."""

    gateway: asyncio.StreamWriter
    port: int
    gate: asyncio.Event
    flights: set[str] = field(default_factory=set)
    keeps: bool = False
    """The gateway's last words were kept back."""
    is_dead: bool = False
    """Nothing passes any more, either way, though both sockets stand."""


_Frames = Callable[[bytearray], Iterator[bytes]]


async def _pump(
    link: _Link,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    frames: _Frames,
    look: Callable[[bytes], bool],
) -> None:
    waiting = bytearray()
    with contextlib.suppress(OSError):
        while chunk := await reader.read(2**18):
            waiting += chunk
            await link.gate.wait()
            writer.write(b"".join(frame for frame in frames(waiting) if look(frame)))
            await writer.drain()


def _client_frames(waiting: bytearray) -> Iterator[bytes]:
    return _frames(waiting, (b"PUB ", b"HPUB "))


def _server_frames(waiting: bytearray) -> Iterator[bytes]:
    return _frames(waiting, (b"MSG ", b"HMSG "))


def _frames(waiting: bytearray, with_payload: tuple[bytes, ...]) -> Iterator[bytes]:
    """Take whole frames off `waiting`."""
    start = 0
    while (end := waiting.find(b"\r\n", start)) >= 0:
        line = waiting[start:end]
        after = end + 2
        if line.startswith(with_payload):
            after += int(line.rpartition(b" ")[2]) + 2
            if after > len(waiting):
                break
        yield bytes(waiting[start:after])
        start = after
    del waiting[:start]


def _batch_head(frame: bytes) -> dict[str, str] | None:
    """Return the headers of a message of a batch."""
    if not frame.startswith(b"HPUB "):
        return None
    lines = frame[frame.index(b"\r\n") + 2 : frame.index(b"\r\n\r\n")].decode().split("\r\n")[1:]
    headers = dict(line.split(": ", 1) for line in lines)
    return headers if "Nats-Batch-Id" in headers else None


def _stored_at(frame: bytes, batch: str) -> int | None:
    """Return the stream sequence of the acknowledgement of `batch`; None for any other answer."""
    if b'"batch"' not in frame:
        return None
    reply = json.loads(frame[frame.index(b"{") :].rstrip())
    return None if "error" in reply or reply.get("batch") != batch else int(reply["seq"])
