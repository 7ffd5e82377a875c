"""A wire between the gateway and Kafka that knows its requests, and can lose or keep one at that very moment.

It reads the head of each request and of each answer. A snag waits for the next request of a kind: `request` keeps
it, so that the broker never hears of it until it is let go; `answer` lets the broker do it, and keeps what it says.
The broker must advertise the wire's port.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Self


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


@dataclass
class Wire:
    """The proxy; a context."""

    port: int
    target: int
    """The broker's port on loopback."""
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
            asked: dict[int, int] = {}
            async with asyncio.TaskGroup() as ways:
                ways.create_task(_pump(reader, server, lambda frame: self._request(asked, frame)))
                ways.create_task(_pump(answers, writer, lambda frame: self._answer(asked, frame)))
        except* (OSError, asyncio.IncompleteReadError):
            pass  # one side hung up, and so does the other
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _request(self, asked: dict[int, int], frame: bytes) -> None:
        api, correlation = int.from_bytes(frame[4:6]), int.from_bytes(frame[8:12])
        asked[correlation] = api
        await self._maybe_keep(api, "request")

    async def _answer(self, asked: dict[int, int], frame: bytes) -> None:
        api = asked.pop(int.from_bytes(frame[4:8]), -1)
        await self._maybe_keep(api, "answer")

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
