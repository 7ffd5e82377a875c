"""A wire between the gateway and Kafka that knows its requests, and can lose or keep one at that very moment.

It reads the head of each request and of each answer. A snag waits for the next request of a kind: `request` keeps
it, so that the broker never hears of it until it is let go; `answer` lets the broker do it, and keeps what it says.
A watch sees everything that goes by, and may take its time; one process can be cut off. The broker must advertise
the wire's port.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Literal, Protocol, Self

from tests.support.sockets import Gates

_DRAIN_LIMIT_S: Final = 1.0
"""Seconds that a broker has for the last requests of who is gone."""
_PIECE: Final = 64 * 1024


class Api(IntEnum):
    """Kafka's numbers of the requests that tests strike at."""

    PRODUCE = 0
    FETCH = 1
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS = 24
    END_TXN = 26


@dataclass
class Snag:
    """A request, or its answer, that is kept."""

    api: Api
    what: Literal["request", "answer"]
    times: int
    """How many may still be caught."""
    caught: asyncio.Event = field(default_factory=asyncio.Event)
    passes: asyncio.Event = field(default_factory=asyncio.Event)
    kept: int = 0

    def let_go(self) -> None:
        """Send on what is kept."""
        self.passes.set()


class Watch(Protocol):
    """Sees what goes over a wire before it goes on, which waits for it; frames are without their size."""

    async def request(self, wire: Wire, port: int, frame: bytes) -> None:
        """See a request; `port` is the client's."""
        ...

    async def answer(self, wire: Wire, request: bytes, frame: bytes) -> None:
        """See the answer to a request."""
        ...


@dataclass
class Wire:
    """The proxy; a context."""

    port: int
    target: int
    """The broker's port on loopback."""
    watch: Watch | None = None
    gates: Gates = field(default_factory=Gates)
    _snags: list[Snag] = field(default_factory=list)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cut everything."""
        assert self._server is not None
        self._server.close()
        self.gates.mend()
        for snag in self._snags:
            snag.let_go()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Drop all connections, of both sides, without a word."""
        for writer in self._writers:
            writer.transport.abort()

    def snag(self, api: Api, what: Literal["request", "answer"], *, times: int = 1) -> Snag:
        """Keep the next request of a kind, or its answer."""
        snag = Snag(api, what, times)
        self._snags.append(snag)
        return snag

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        ends = {writer}
        port = writer.get_extra_info("peername")[1]
        client = _Client(port, self.gates.begin(port))
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.target)
            ends.add(server)
            self._writers |= ends
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._ask(client, reader, server, answers))
                ways.create_task(self._send_answers(client, answers, writer))
        except* (OSError, asyncio.IncompleteReadError):
            pass  # one side hung up, and so does the other
        finally:
            self._writers -= ends
            self.gates.end(port)
            for end in ends:
                end.transport.abort()

    async def _ask(
        self,
        client: _Client,
        reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
    ) -> None:
        try:
            await _pump(client, reader, server, lambda frame: self._request(client, frame))
        except (OSError, asyncio.IncompleteReadError):  # the last words of who is gone are answered all the same
            deadline = time.monotonic() + _DRAIN_LIMIT_S
            while client.asked and not answers.at_eof() and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            raise

    async def _send_answers(self, client: _Client, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on answers. One to a read goes on as it comes: who reads sees that something does."""

        def whole(head: bytes) -> bool:
            request = client.asked.get(int.from_bytes(head[4:8]))
            return request is None or int.from_bytes(request[4:6]) != Api.FETCH

        await _pump(client, answers, writer, lambda frame: self._answer(client, frame), whole)

    async def _request(self, client: _Client, frame: bytes) -> None:
        client.asked[int.from_bytes(frame[8:12])] = frame
        await self._maybe_keep(int.from_bytes(frame[4:6]), "request")
        if self.watch is not None:
            await self.watch.request(self, client.port, frame[4:])

    async def _answer(self, client: _Client, frame: bytes) -> None:
        request = client.asked.pop(int.from_bytes(frame[4:8]), None)
        if request is None:
            return
        await self._maybe_keep(int.from_bytes(request[4:6]), "answer")
        if self.watch is not None:
            await self.watch.answer(self, request[4:], frame[4:])

    async def _maybe_keep(self, api: int, what: str) -> None:
        for snag in self._snags:
            if (snag.api, snag.what) == (api, what) and snag.times and not snag.passes.is_set():
                snag.times -= 1
                snag.kept += 1
                snag.caught.set()
                await snag.passes.wait()
                return


@dataclass
class _Client:
    """One connection to the wire."""

    port: int
    gate: asyncio.Event
    asked: dict[int, bytes] = field(default_factory=dict)
    """Requests without an answer, by their number."""


async def _pump(
    client: _Client,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    look: Callable[[bytes], Awaitable[None]],
    is_whole: Callable[[bytes], bool] = lambda _: True,
) -> None:
    """Carry frames; those for which `is_whole` says no, by their first 8 bytes, in the pieces in which they come."""
    while True:
        frame = await reader.readexactly(8)
        left = int.from_bytes(frame[:4]) - 4
        if is_whole(frame):
            frame += await reader.readexactly(left)
            left = 0
        await client.gate.wait()
        await look(frame)
        while True:
            if not writer.is_closing():  # what comes for who is gone is read all the same
                writer.write(frame)
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
            if not left:
                break
            frame = await reader.read(min(left, _PIECE))
            if not frame:
                raise asyncio.IncompleteReadError(frame, left)
            left -= len(frame)
            await client.gate.wait()
