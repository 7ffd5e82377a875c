"""Listens and serves, on the gateway's own loop: uvicorn without its handling of signals, and with limits of ours."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.control.problems import MEDIA_TYPE, Kind, Problem
from gateway.errors import ConfigurationError
from gateway.telemetry.logs import get_logger

_HEAD: Final = 10.0
"""Seconds in which a connection must bring its first request, and each further one once it began."""
_IDLE: Final = 30
"""Seconds that a connection may be kept without a request."""
_CONNECTIONS: Final = 256
"""Open connections of one listener: file descriptors are for the hub."""
_TICK: Final = 1.0
"""Seconds between two looks at the clock, for the header Date."""
_LARGEST_HEAD: Final = 32 * 1024
_ENDING: Final = 1
"""Seconds that answers in the making get at the end."""


def bind(section: str, host: str, port: int) -> socket.socket:
    """Take the port, without answering yet; raises ConfigurationError that names the setting of `section`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        remedy = "Name an address of this machine, or 0.0.0.0 for all."
        raise ConfigurationError(f"{section}.host", f"{host!r} is no address ({error.strerror})", remedy) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_CONNECTIONS)
    except (OSError, OverflowError) as error:
        listener.close()
        words = getattr(error, "strerror", None) or str(error)
        problem = f"{host}:{port} cannot be listened on ({words})"
        remedy = f"Choose a port that is free, or 0 for any, and an address of this machine in {section}.host."
        raise ConfigurationError(f"{section}.port", problem, remedy) from error
    listener.setblocking(False)  # noqa: FBT003 - the library's name for it
    return listener


def address_of(listener: socket.socket) -> tuple[str, int]:
    """Give where it listens."""
    host, port = listener.getsockname()[:2]
    return str(host), int(port)


def url_of(listener: socket.socket) -> str:
    """Give a URL to reach it from this machine."""
    host, port = address_of(listener)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - it is compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Answer on `listener` for as long as the context lasts; leaving takes two seconds at the most."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        loop="none",
        log_config=None,
        log_level="critical",  # what goes wrong with a request, the gate tells
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=_ENDING,
        h11_max_incomplete_event_size=_LARGEST_HEAD,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve([listener]), name="http")
    try:
        yield
    finally:
        server.end()
        await asyncio.wait({running}, timeout=_ENDING + 1)
        running.cancel()
        listener.close()
        if running.done() and not running.cancelled() and (error := running.exception()) is not None:
            get_logger().error("a listener failed", error=repr(error))


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._asked = asyncio.Event()

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


class _Protocol(H11Protocol):
    """One connection: uvicorn's, but with an end for one that says nothing, and with problems instead of plain text."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _CONNECTIONS:
            transport.abort()
        self._expect(_HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect(_IDLE + _HEAD)

    def _expect(self, seconds: float) -> None:
        """Close the connection unless another request has begun by then, however slowly its bytes drip."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(seconds, self._lose_patience, self.cycle)

    def _lose_patience(self, before: object) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if self.cycle is before and not is_answering:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        body = Problem(Kind.MALFORMED, msg).body("", "")
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
