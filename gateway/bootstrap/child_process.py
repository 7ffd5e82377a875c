"""Child processes of the gateway that answer unknown clients, so that no event waits for these.

On the loop of the replica, a thousand reads a second of the control plane doubled the delay of events at five thousand
a second (measured: docs/operate/performance.md), and one connection that sent a body byte by byte stopped them. The
parent passes the listening socket and the settings to the process, and starts another should it end. The process ends
with its parent, however that ends: nothing is left that listens.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, NoReturn, TypeVar

from gateway.backoff import Backoff
from gateway.telemetry.logs import get_logger

_FIRST_PROGRAM: Final = "import os; from {} import main; os.nice(10); main()"
"""Events go first; when the gateway starts there are none yet, and on a busy machine loading takes four times as long
behind everything else (measured: 8 s against 3)."""
_NEXT_PROGRAM: Final = "import os; os.nice(10); from {} import main; main()"
"""Events go first, also while all of it is loaded."""
LISTENS: Final = b"listens\n"
"""The process writes this, once, when it answers."""
READY: Final = b"ready\n"
"""The process writes this, once, when it also has what it is to answer."""
_ENDING: Final = 3.0
"""Seconds that it gets to end."""


@dataclass(frozen=True, slots=True)
class ChildLog:
    """The log messages about a process."""

    listens: str
    """Once it answers."""
    ended: str
    """When it ended by itself."""
    url: str
    address: str


class ChildProcess:
    """The process, kept running."""

    def __init__(self, about: ChildLog, module: str, listener: socket.socket, settings: bytes) -> None:
        """`settings` are one line, which `main` of `module` reads."""
        self.is_ready = False
        """Whether it reported that at least once."""
        self.writer: asyncio.StreamWriter | None = None
        """To its standard input."""
        self._about = about
        self._is_listening = False
        self._module = module
        self._program = _FIRST_PROGRAM
        self._listener = listener
        self._settings = settings
        self._process: Process | None = None
        self._answers = False

    async def supervise(self) -> NoReturn:
        """Start it, and start it again whenever it ends."""
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                how: int | str = await self._run()
            except OSError as error:  # no more processes, or no memory
                how = str(error)
            delay = backoff.next_delay(lasted=loop.time() - began, at_least=0.1)
            get_logger().error(self._about.ended, code=how, retry_in=round(delay, 2))
            self.ended()
            await asyncio.sleep(delay)

    async def _run(self) -> int:
        fd = self._listener.fileno()
        # -P: nothing is imported from where it is started
        command = (sys.executable, "-P", "-c", self._program.format(self._module), str(fd))
        self._program = _NEXT_PROGRAM
        # The settings come whole on standard input, without the hub's secrets, which it has no use for.
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("GATEWAY_")}
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, pass_fds=[fd], env=environment
        )
        self._process, self._answers = process, False
        assert process.stdin is not None  # noqa: S101 - they are pipes
        assert process.stdout is not None  # noqa: S101 - likewise
        with suppress(ConnectionError):  # it has ended already
            process.stdin.write(self._settings + b"\n")
            await process.stdin.drain()
        self.writer = process.stdin
        try:
            while line := await process.stdout.readline():
                if line == LISTENS:
                    self._listens()
                self.is_ready |= line == READY
                await self.on_message(line)
        except ValueError as error:  # a line without an end: no more of its output is read
            get_logger().error("unreadable message from a child process", error=str(error))
        finally:
            self.writer = None
        return await process.wait()

    def _listens(self) -> None:
        self._answers = True
        if not self._is_listening:
            get_logger().info(self._about.listens, url=self._about.url, address=self._about.address)
        self._is_listening = True

    def ended(self) -> None:
        """Note that the process has ended although the gateway did not ask for that: another one is started."""

    async def on_message(self, line: bytes) -> None:
        """Do what the process asks for, if it asks for anything."""

    async def end(self) -> None:
        """End it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if not self._answers:  # it may be anywhere in its beginning
            process.kill()
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        process.stdin.close()
        try:
            async with asyncio.timeout(_ENDING):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def send_to_parent(message: bytes) -> bool:
    """Write words of such a process to its parent, whole or not at all; return whether it took them."""
    assert len(message) <= select.PIPE_BUF  # noqa: S101 - else a pipe might take a part of them
    try:
        os.write(sys.stdout.fileno(), message)
    except BlockingIOError:  # it is busy, where this process does not wait for it
        return False
    except BrokenPipeError:  # it is gone, and so is this process soon
        return False
    return True


_Apart = TypeVar("_Apart", bound=ChildProcess)


@asynccontextmanager
async def kept(apart: _Apart) -> AsyncIterator[_Apart]:
    """Keep the process running for as long as the context lasts."""
    try:
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(apart.supervise(), name="apart")
            yield apart
            keeping.cancel()
    finally:
        await apart.end()
