"""A line of so many bytes a second, and so many seconds long: what a VPN or a far data centre puts before a broker."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

FAST: Final = 1e9
"""Bytes a second of a line that holds nothing up."""
_PIECE: Final = 2048
_LOOK: Final = 0.05
_BUFFER: Final = 16 * 1024
"""Bytes that wait in each socket, as in a router: more of them would hide how slow the line is."""


@dataclass
class SlowLine:
    """A proxy to one port; its rate is shared by all connections, each way, and may be changed at any time."""

    target: Callable[[], int]
    """The port at its other end."""
    rate: float
    """Bytes a second."""
    delay: float = 0.0
    """Seconds that each way takes."""
    port: int = 0
    carried: int = 0
    """Bytes on the way to the target so far."""
    connections: int = 0
    """That were accepted so far."""
    admits: float = math.inf
    """Connections a second: further ones wait for their turn, as at a small managed broker."""
    is_hung: bool = False
    """Whether connections are taken, and not a byte is carried."""
    _admitted_at: float = 0.0
    _free_at: dict[bool, float] = field(default_factory=dict)
    _carrying: set[asyncio.Task[None]] = field(default_factory=set)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, outward: bool) -> None:
        loop = asyncio.get_running_loop()
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                at, piece = await on_the_way.get()
                await asyncio.sleep(at - loop.time())
                if not piece:
                    writer.close()
                    return
                writer.write(piece)
                await writer.drain()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(deliver())
            with suppress(ConnectionError):
                while piece := await reader.read(_PIECE):
                    while self.is_hung:
                        await asyncio.sleep(_LOOK)
                    now = loop.time()
                    begins = max(now, self._free_at.get(outward, 0.0))
                    self._free_at[outward] = ends = begins + len(piece) / self.rate
                    await asyncio.sleep(ends - now)
                    self.carried += len(piece) if outward else 0
                    on_the_way.put_nowait((ends + self.delay, piece))
            on_the_way.put_nowait((loop.time() + self.delay, b""))

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection: it is carried in a task that the line ends, else asyncio complains of each at the end."""
        self.connections += 1
        carrying = asyncio.create_task(self._connect(reader, writer))
        self._carrying.add(carrying)
        carrying.add_done_callback(self._carrying.discard)

    async def end(self) -> None:
        """Drop all connections."""
        for carrying in self._carrying:
            carrying.cancel()
        if self._carrying:
            await asyncio.wait(self._carrying)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._admitted_at = max(asyncio.get_running_loop().time(), self._admitted_at + 1 / self.admits)
        await asyncio.sleep(self._admitted_at - asyncio.get_running_loop().time())
        try:
            answers, asked = await asyncio.open_connection("127.0.0.1", self.target(), limit=_BUFFER)
        except OSError:
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._carry(reader, asked, outward=True))
                tasks.create_task(self._carry(answers, writer, outward=False))
        except* ConnectionError:
            pass
        finally:
            for end in (writer, asked):
                end.close()


@asynccontextmanager
async def slow_line(target: Callable[[], int], rate: float = FAST, delay: float = 0.0) -> AsyncIterator[SlowLine]:
    """Yield a line to a port of this machine, which is asked for at each connection."""
    line = SlowLine(target, rate, delay)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    async with await asyncio.start_server(line.accept, sock=listening, limit=_BUFFER):
        line.port = listening.getsockname()[1]
        try:
            yield line
        finally:
            await line.end()
