"""A span for each HTTP request that is sampled, around the gate: also a refused request has its span.

The trace that a request names is continued, and the sender's decision to sample followed, only for a known caller. For
others the ratio of the settings decides, or any client could fill the exporter's queue.

The span has the request's method, the route that it matched and the status. Path, query and headers stay out, since a
caller may have put a token where it does not belong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.telemetry.tracer import Tracer, end_request

_TRACE: Final = {b"traceparent", b"tracestate"}


class TracingMiddleware:
    """Passes requests on to `app`, in spans."""

    def __init__(self, app: ASGIApp, tracer: Tracer, is_known: Callable[[Scope], bool]) -> None:
        """`is_known` returns whether a request is from an authenticated caller."""
        self._is_known = is_known
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        sent = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _TRACE}
        if sent and not self._is_known(scope):
            sent = {}
        server, client = scope.get("server") or (None, None), scope.get("client") or (None, None)
        about = {
            "url.scheme": scope.get("scheme"),
            "server.address": server[0],
            "server.port": server[1],
            "client.address": client[0],
            "network.protocol.version": scope.get("http_version"),
        }
        span = self._tracer.request(scope["method"], sent, about)
        if not span:
            await self._app(scope, receive, send)
            return
        status = 0

        async def forward(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        span.activate()
        try:
            await self._app(scope, receive, forward)
        finally:
            end_request(span, scope["method"], getattr(scope.get("route"), "path", None), status)
