"""Listens and serves on the running loop: uvicorn without its handling of signals, and with limited connections."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Final, NoReturn

import uvicorn
from starlette.types import ASGIApp

from gateway.control.listener.connection import LARGEST_HEAD, ConnectionLimits, HttpConnection
from gateway.control.listener.handshake import shake_hands
from gateway.control.listener.pieces import SplitLargeResponses
from gateway.control.listener.sockets import BACKLOG
from gateway.telemetry.logs import get_logger

_TICK: Final = 1.0
"""Seconds between two looks at the clock, for the header Date."""
_ENDING: Final = 1
"""Seconds that answers in the making get at the end."""


@asynccontextmanager
async def serving(
    app: ASGIApp,
    listener: socket.socket,
    *,
    tls: ssl.SSLContext | None = None,
    limits: ConnectionLimits | None = None,
) -> AsyncIterator[None]:
    """Answer on `listener` for as long as the context lasts, with TLS if `tls` is given; leaving takes 2 s at most."""
    limits = limits or ConnectionLimits()
    config = uvicorn.Config(
        SplitLargeResponses(app),
        ws="none",
        lifespan="off",
        interface="asgi3",
        loop="none",
        log_config=None,
        log_level="critical",  # the gate logs what fails in a request
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=int(limits.idle),
        timeout_graceful_shutdown=_ENDING,
        h11_max_incomplete_event_size=LARGEST_HEAD,
    )
    server = _Server(config, limits, tls)
    running = asyncio.create_task(server.serve([listener]), name="http")
    try:
        yield
    finally:
        server.end()
        await asyncio.wait({running}, timeout=_ENDING + 1)
        running.cancel()
        listener.close()
        if running.done() and not running.cancelled() and (error := running.exception()) is not None:
            get_logger().error("listener failed", error=repr(error))


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, limits: ConnectionLimits, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._asked = asyncio.Event()
        self._limits = limits
        self._tls = tls
        self._accepting: list[asyncio.Task[NoReturn]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; uvicorn's own gives a TLS handshake a minute, and bounds the number of them by nothing."""
        loop = asyncio.get_running_loop()
        create = partial(HttpConnection, self.config, self.server_state, self._limits)
        self.servers = []
        for listener in sockets or ():
            if self._tls is None:
                self.servers.append(await loop.create_server(create, sock=listener, backlog=BACKLOG))
            else:
                self._accepting.append(asyncio.create_task(self._accept(listener, self._tls, create), name="accept"))
        self.started = True

    async def _accept(
        self, listener: socket.socket, tls: ssl.SSLContext, create: Callable[[], HttpConnection]
    ) -> NoReturn:
        """Accept connections; where too many are at their TLS handshake, the one that began first is given up."""
        loop = asyncio.get_running_loop()
        shaking: dict[asyncio.Task[None], None] = {}
        while True:
            try:
                peer, _ = await loop.sock_accept(listener)
            except OSError:  # it has gone already, or there are no more file descriptors
                await asyncio.sleep(0.1)
                continue
            if len(shaking) >= self._limits.connections:
                first = next(iter(shaking))
                del shaking[first]
                first.cancel()
            task = asyncio.create_task(shake_hands(peer, tls, create, self._limits.head))
            shaking[task] = None
            task.add_done_callback(lambda done: shaking.pop(done, None))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, and let answers in the making be sent."""
        for task in self._accepting:
            task.cancel()
        await super().shutdown(sockets)

    def end(self) -> None:
        """Take no more requests, and let `serve` return."""
        self.should_exit = True
        self._asked.set()

    async def main_loop(self) -> None:
        """Wait for the end; uvicorn's own wakes ten times a second, which an idle gateway need not."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._asked.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: when the gateway ends is its own matter."""
        yield
