"""The simulated hub's HTTP: negotiation, the WebSocket upgrade, and the watch over all connections."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal

import msgspec
from aiohttp import web

from gateway.signalr import protocol
from gateway.simulator import methods
from gateway.simulator.connection import ServerConnection, ServerLimits
from gateway.simulator.hub import SimulatedHub
from gateway.simulator.user import User

PATH: Final = "/hubs/event/v1"
Ending = Literal["abort", "close", "expire", "cut", "half-open"]
"""`abort`: type 7, then close 1000. `close`: the same with an error and advice. `expire`: as at a token's end.
`cut`: TCP is cut without a word, 1006. `half-open`: the hub forgets it, and the client is not told."""
_REDIRECTED: Final = "/redirected/{hop:[0-9]+}"
_REDIRECTED_KEY: Final = ".redirected"
_TRANSPORTS: Final = (
    {"transport": "WebSockets", "transferFormats": ["Text", "Binary"]},
    {"transport": "ServerSentEvents", "transferFormats": ["Text"]},
    {"transport": "LongPolling", "transferFormats": ["Text", "Binary"]},
)
"""As a real hub answers, though only WebSockets are served here: the others get 404."""
_HTML: Final = "<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in.</body></html>"
_CHALLENGE: Final = 'Bearer error="invalid_token"'
_TICK: Final = 0.01
_CLOSING_SECONDS: Final = 2.0
_MAX_NEGOTIATED: Final = 20_000


@dataclass(frozen=True, slots=True)
class Timing:
    """The hub's clocks, in seconds."""

    ping_interval: float = 15.0
    """A connection on which nothing was sent for this long is sent a ping."""
    client_timeout: float = 30.0
    """A client silent for this long is dropped, once it has sent a ping."""
    handshake_timeout: float = 15.0
    """A client has this long for its handshake."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One step of a client's way in or out."""

    time: float
    """Seconds since 1970."""
    step: str
    """`negotiate`, `upgrade`, `handshake` or `ended`."""
    user: str | None
    connection: str | None = None
    status: int | None = None
    """The HTTP status given, for the first two."""
    why: str | None = None
    """Why it ended or was refused."""


class Server:
    """Serves one Hub; every open WebSocket is in `connections`."""

    def __init__(self, hub: SimulatedHub, timing: Timing, queue_bytes: int) -> None:
        """`queue_bytes` may wait for a slow client before it is cut off."""
        self.hub = hub
        self.connections: dict[str, ServerConnection] = {}
        self.log: deque[LogEntry] = deque(maxlen=10_000)
        self._timing = timing
        self._limits = ServerLimits(timing.handshake_timeout, queue_bytes)
        self._negotiated: dict[str, tuple[User, str]] = {}

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Serve the hub, at its own path and where negotiation may redirect to."""
        for prefix in ("", _REDIRECTED):
            router.add_post(f"{prefix}{PATH}/negotiate", self._negotiate)
            router.add_get(f"{prefix}{PATH}", self._upgrade)

    def of(self, user: User | None) -> list[ServerConnection]:
        """Return the connections of `user`, or all."""
        return [connection for connection in self.connections.values() if user in (None, connection.user)]

    def drop(
        self,
        connections: Iterable[ServerConnection],
        how: Ending = "abort",
        *,
        error: str | None = None,
        allow_reconnect: bool = False,
    ) -> None:
        """End connections in one of the ways that a real hub has; `error` and the advice are for `close` only."""
        for connection in connections:
            match how:
                case "abort":
                    connection.end("aborted", protocol.encode_close())
                case "close":
                    connection.end("closed", protocol.encode_close(error, allow_reconnect=allow_reconnect))
                case "expire":
                    connection.end("token expired", protocol.encode_close(allow_reconnect=True))
                case "cut":
                    connection.cut("cut")
                case "half-open":
                    connection.forget()

    def wake(self) -> None:
        """Let every connection look again whether it may send: faults have changed."""
        for connection in self.of(None):
            connection.wake()

    def cut(self) -> None:
        """Drop every connection without a close record, as a process does that is asked to end."""
        for connection in self.of(None):
            connection.cut("the hub ended")

    async def run(self) -> None:
        """Let time pass for the hub, without end."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._emit())
            group.create_task(self._watch())

    async def _emit(self) -> None:
        then = time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            self.hub.tick(now - then)
            then = now

    async def _watch(self) -> None:
        timing = self._timing
        step = min(timing.ping_interval / 4, timing.client_timeout / 4, 0.25)
        while True:
            await asyncio.sleep(step)
            now = time.monotonic()
            for connection in self.of(None):
                expires = connection.user.faults.token_seconds
                if expires is not None and now - connection.began > expires:
                    self.drop([connection], "expire")
                elif connection.pinged and now - connection.received_at > timing.client_timeout:
                    message = "Connection closed with an error."
                    connection.end("client timeout", protocol.encode_close(message, allow_reconnect=True))
                elif now - connection.sent >= timing.ping_interval and not connection.waiting:
                    connection.push(protocol.encode_ping())

    def _admit(self, request: web.Request, step: str) -> User | web.Response:
        """Return the user of the request's key, or the answer that refuses it."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = request.query.get("access_token", "")
        if "hop" in request.match_info:
            key = key.removesuffix(_REDIRECTED_KEY)
        user = self.hub.user_of(key)
        name = user.name if user else None
        if refusal := self.hub.refusal(user, step, time.monotonic()):
            headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
            if refusal.status == HTTPStatus.UNAUTHORIZED:
                headers["WWW-Authenticate"] = _CHALLENGE
            self._note(step, name, status=refusal.status, why="refused")
            return web.Response(status=refusal.status, headers=headers)
        if user is None:
            self._note(step, None, status=HTTPStatus.UNAUTHORIZED, why="unknown key")
            challenge = _CHALLENGE if key else "Bearer"
            return web.Response(status=HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": challenge})
        return user

    async def _negotiate(self, request: web.Request) -> web.Response:
        user = self._admit(request, "negotiate")
        if isinstance(user, web.Response):
            return user
        await asyncio.sleep(methods.delay(user, "negotiate"))
        self._note("negotiate", user.name, status=HTTPStatus.OK)
        if user.faults.negotiate_html:
            return web.Response(text=_HTML, content_type="text/html")
        hop = int(request.match_info.get("hop", "0"))
        if hop < user.faults.redirects:
            url = f"{request.scheme}://{request.host}{_REDIRECTED.partition('{')[0]}{hop + 1}{PATH}"
            answer = {
                "negotiateVersion": 0,
                "url": url,
                "accessToken": user.key + _REDIRECTED_KEY,
                "availableTransports": [],
            }
            return _json(answer)
        id, token = secrets.token_urlsafe(16), secrets.token_urlsafe(16)  # noqa: A001 - its name
        if len(self._negotiated) >= _MAX_NEGOTIATED:
            del self._negotiated[next(iter(self._negotiated))]
        if request.query.get("negotiateVersion", "0") == "0":
            self._negotiated[id] = (user, id)
            return _json({"negotiateVersion": 0, "connectionId": id, "availableTransports": _TRANSPORTS})
        self._negotiated[token] = (user, id)
        return _json(
            {"negotiateVersion": 1, "connectionId": id, "connectionToken": token, "availableTransports": _TRANSPORTS}
        )

    async def _upgrade(self, request: web.Request) -> web.StreamResponse:
        user = self._admit(request, "upgrade")
        if isinstance(user, web.Response):
            return user
        await asyncio.sleep(methods.delay(user, "upgrade"))
        token = request.query.get("id")
        negotiated = self._negotiated.get(token) if token else (user, secrets.token_urlsafe(16))
        socket = web.WebSocketResponse(compress=False, timeout=_CLOSING_SECONDS, decode_text=False)
        transport = request.transport
        if negotiated is None or negotiated[0] is not user or not socket.can_prepare(request) or transport is None:
            self._note("upgrade", user.name, status=HTTPStatus.NOT_FOUND, why="no such connection")
            return web.Response(status=HTTPStatus.NOT_FOUND, text="No Connection with that ID")
        if token:
            del self._negotiated[token]
        connection = ServerConnection(negotiated[1], user, transport, self._limits)
        await socket.prepare(request)
        self._note("upgrade", user.name, connection.id, HTTPStatus.SWITCHING_PROTOCOLS)
        self.connections[connection.id] = connection

        def opened() -> None:
            self._note("handshake", user.name, connection.id)
            user.counts["connects"] += 1
            user.attach(connection.listener)

        try:
            await connection.serve(socket, opened)
        finally:
            user.detach(connection.listener)
            del self.connections[connection.id]
            self._note("ended", user.name, connection.id, why=connection.ended)
        return socket

    def _note(
        self,
        step: str,
        user: str | None,
        connection: str | None = None,
        status: int | None = None,
        why: str | None = None,
    ) -> None:
        self.log.append(LogEntry(time.time(), step, user, connection, status, why))


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
