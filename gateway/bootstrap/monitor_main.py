"""The process that answers probes and scrapers: a socket as its argument, a task and then frames on its standard input.

The gateway starts it (`gateway.bootstrap.heartbeat`), and it ends with the gateway. It is a small one, so that it
starts soon, and it has nothing but what the gateway's loop reports.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from gateway.bootstrap.child_process import LISTENS, send_to_parent
from gateway.bootstrap.heartbeat import ASK, BEAT, EACH, HEAD, NUMBERS, Scraped, Task
from gateway.control.listener.connection import ConnectionLimits
from gateway.control.listener.server import serving
from gateway.control.listener.tls import listener_tls
from gateway.control.probes import ProbesApp
from gateway.errors import ConfigurationError
from gateway.telemetry.control_counts import ControlCounters
from gateway.telemetry.logs import configure_logs, get_logger
from gateway.telemetry.metrics import Metrics

USAGE_ERROR: Final = 2
STUCK: Final = 5.0
"""Seconds without a beat after which the loop that serves events counts as stuck."""
_SILENT: Final = 1.5
"""Seconds without a beat after which a scrape does not wait for it."""
_TIMEOUT_S: Final = 8.0
"""Seconds for the numbers of a loop that is busy: Prometheus gives a scrape 10 by default."""
_SHARE: Final = 20
"""Numbers serve all scrapes for so many times as long as they took: scrapers get a twentieth of the loop."""
_OLDEST: Final = 1.0
"""Seconds for which they do at most."""
_WAITING: Final = 32
"""Scrapes that may wait at once."""


class HeartbeatReader:
    """The last report of the gateway's loop."""

    def __init__(self, metrics: Metrics, ask: Callable[[], object]) -> None:
        """`ask` asks it for the numbers."""
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics
        self._ask = ask
        self._last_received_at = self._loop.time()  # it has just started this process
        self._is_ready = False
        self._next = asyncio.Event()
        """Set by the next frame."""
        self._asked_at = 0.0
        self._answer: asyncio.Future[bool] | None = None
        """Whether there are numbers, once the question that is open is answered."""
        self._scraped: Scraped = None, ControlCounters()
        self._fresh_until = 0.0
        self._texts: dict[str, bytes] = {}
        """The present numbers, by media type."""
        self._writing = asyncio.Lock()
        self._waiting = 0

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Read its reports until the pipe ends."""
        with suppress(asyncio.IncompleteReadError):
            while True:
                kind, length = HEAD.unpack(await reader.readexactly(HEAD.size))
                self.on_frame(kind, await reader.readexactly(length))

    def on_frame(self, kind: bytes, payload: bytes) -> None:
        """Take in one frame."""
        now = self._last_received_at = self._loop.time()
        if kind == BEAT:
            self._is_ready = payload != b"\0"
        else:
            if kind == NUMBERS:
                self._scraped, self._texts = pickle.loads(payload), {}  # noqa: S301 - of the parent, over its own pipe
                self._fresh_until = now + min(_OLDEST, _SHARE * (now - self._asked_at))
            if self._answer is not None:
                self._answer.set_result(kind == NUMBERS)
            self._answer = None
        received, self._next = self._next, asyncio.Event()
        received.set()

    async def is_alive(self) -> bool:
        """Return whether the loop that serves events is not stuck."""
        if self._silence() > STUCK:  # a beat may wait in the pipe, where this process was the one without a turn
            with suppress(TimeoutError):
                async with asyncio.timeout(EACH):
                    await self._next.wait()
        return self._silence() <= STUCK

    async def is_ready(self) -> bool:
        """Return whether the gateway reports that it is ready, and is alive."""
        return await self.is_alive() and self._is_ready

    def _silence(self) -> float:
        return self._loop.time() - self._last_received_at

    async def scraped(self, accept: str) -> tuple[str, bytes]:
        """Return the media type and the metrics; raises TimeoutError where the loop does not report its numbers."""
        if self._waiting >= _WAITING:
            raise TimeoutError
        self._waiting += 1
        try:
            await self._be_fresh()
            media_type = self._metrics.media_type(accept)
            async with self._writing:  # one thread at a time: probes are answered meanwhile
                texts = self._texts
                if media_type not in texts:
                    _, texts[media_type] = await asyncio.to_thread(self._text, media_type)
            return media_type, texts[media_type]
        finally:
            self._waiting -= 1

    def _text(self, media_type: str) -> tuple[str, bytes]:
        numbers, control = self._scraped
        return self._metrics.text(numbers, media_type, control)

    async def _be_fresh(self) -> None:
        """Wait for new numbers, unless those that are here came a moment ago."""
        if self._loop.time() <= self._fresh_until:
            return
        if self._answer is None:
            self._answer, self._asked_at = self._loop.create_future(), self._loop.time()
            self._ask()
        answer = self._answer
        async with asyncio.timeout(_TIMEOUT_S):
            while not answer.done():
                async with asyncio.timeout(_SILENT):
                    await self._next.wait()
        if not answer.result():
            raise TimeoutError


async def _serve(task: Task, listener: socket.socket) -> None:
    """Answer until the parent is gone."""
    reader, loop = asyncio.StreamReader(), asyncio.get_running_loop()
    metrics = Metrics(task.shards, per_account=task.per_account, process=os.getppid())
    pulse = HeartbeatReader(metrics, partial(send_to_parent, ASK))
    probes = ProbesApp(pulse.is_alive, pulse.is_ready, pulse.scraped)
    limits = ConnectionLimits(has_bodies=False)
    async with listener_tls("monitoring", task.tls) as tls, serving(probes, listener, tls=tls, limits=limits):
        send_to_parent(LISTENS)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await pulse.read(reader)


def _path(_: type, text: str) -> Path:
    """Decode the one type of `Task` that msgspec does not support."""
    return Path(text)


def main() -> None:
    """Be that process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent is asked, and ends this
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as raw:  # reads no byte too many
        task = msgspec.json.decode(raw.readline(), type=Task, dec_hook=_path)
    configure_logs(task.log_format, task.log_level, task.replica)
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        try:
            uvloop.run(_serve(task, listener))
        except ConfigurationError as error:  # a file that was right when the parent began
            get_logger().error("failed to serve probes and metrics", error=str(error))
            sys.exit(USAGE_ERROR)
