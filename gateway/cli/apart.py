"""The control plane in a process of its own, so that no event waits for it, however busy it is.

On the loop of the replica, a thousand reads a second doubled the delay of events at five thousand a second (measured:
docs/performance.md). The process is given the listening socket and the settings by its parent, which starts another
should it end, and it ends with its parent, however that ends: nothing is left that listens.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, NoReturn

from gateway.replica.backoff import Backoff
from gateway.settings import Settings
from gateway.telemetry.logs import get_logger

_PROGRAM: Final = "import os; os.nice(10); from gateway.cli.control import main; main()"
"""Events go first, also while all of it is loaded."""
READY: Final = b"ready\n"
"""What it says, once, when it knows the accounts."""
_ENDING: Final = 3.0
"""Seconds that it gets to end."""


class Apart:
    """The process, kept running."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.is_ready = False
        """Whether it knew the accounts at least once."""
        self._settings = settings
        self._listener = listener
        self._process: Process | None = None
        self._answers = False

    async def keep(self) -> NoReturn:
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
            get_logger().error("the control plane ended, and is started again", code=how, retry_in=round(delay, 2))
            await asyncio.sleep(delay)

    async def _run(self) -> int:
        fd = self._listener.fileno()
        command = (sys.executable, "-P", "-c", _PROGRAM, str(fd))  # -P: nothing is imported from where it is started
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, pass_fds=[fd])
        self._process, self._answers = process, False
        assert process.stdin is not None  # noqa: S101 - they are pipes
        assert process.stdout is not None  # noqa: S101 - likewise
        with suppress(ConnectionError):  # it has ended already
            process.stdin.write(self._settings.model_dump_json().encode() + b"\n")
            await process.stdin.drain()
        if await process.stdout.readline() == READY:
            self.is_ready = self._answers = True
        return await process.wait()

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


@asynccontextmanager
async def control_apart(settings: Settings, listener: socket.socket) -> AsyncIterator[Apart]:
    """Serve the control plane on `listener` for as long as the context lasts."""
    apart = Apart(settings, listener)
    try:
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(apart.keep(), name="control")
            yield apart
            keeping.cancel()
    finally:
        await apart.end()
