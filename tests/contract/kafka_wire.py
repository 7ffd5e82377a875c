"""A wire between the gateway and Kafka that knows its requests, and can lose or keep one at that very moment.

It reads the head of each request and of each answer. A snag waits for the next request of a kind: `request` keeps
it, so that the broker never hears of it until it is let go; `answer` lets the broker do it, and keeps what it says.
A watch sees everything that goes by, and may take its time. The broker must advertise the wire's port.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Literal, Protocol, Self

_LAST_WORDS: Final = 1.0
"""Seconds that a broker has for the last requests of who is gone."""


class Api(IntEnum):
    """Kafka's numbers of the requests that tests strike at."""

    PRODUCE = 0
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

    async def request(self, wire: Wire, frame: bytes) -> None:
        """See a request."""
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
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.target)
            ends.add(server)
            self._writers |= ends
            asked: dict[int, bytes] = {}
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._ask(reader, server, asked, answers))
                ways.create_task(_pump(answers, writer, lambda frame: self._answer(asked, frame)))
        except* (OSError, asyncio.IncompleteReadError):
            pass  # one side hung up, and so does the other
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        asked: dict[int, bytes],
        answers: asyncio.StreamReader,
    ) -> None:
        try:
            await _pump(reader, server, lambda frame: self._request(asked, frame))
        except (OSError, asyncio.IncompleteReadError):  # the last words of who is gone are answered all the same
            deadline = time.monotonic() + _LAST_WORDS
            while asked and not answers.at_eof() and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            raise

    async def _request(self, asked: dict[int, bytes], frame: bytes) -> None:
        asked[int.from_bytes(frame[8:12])] = frame
        await self._maybe_keep(int.from_bytes(frame[4:6]), "request")
        if self.watch is not None:
            await self.watch.request(self, frame[4:])

    async def _answer(self, asked: dict[int, bytes], frame: bytes) -> None:
        request = asked.pop(int.from_bytes(frame[4:8]), None)
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


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Callable[[bytes], Awaitable[None]]
) -> None:
    while True:
        size = await reader.readexactly(4)
        frame = size + await reader.readexactly(int.from_bytes(size))
        await look(frame)
        writer.write(frame)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
