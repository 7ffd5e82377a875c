"""The answers to probes and scrapers, without a token: liveness, readiness and metrics.

`/healthz` fails only where the event loop that serves events is stuck. `/readyz` succeeds once the process has joined
the others and has received the accounts, and until it is asked to end: that the hub or the broker becomes unavailable
later is no reason to take it out of service.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from starlette.types import Receive, Scope, Send

_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class ProbesApp:
    """The ASGI application of the second listener."""

    is_alive: Callable[[], Awaitable[bool]]
    """Returns whether the loop that serves events is not stuck."""
    is_ready: Callable[[], Awaitable[bool]]
    scraped: Callable[[str], Awaitable[tuple[str, bytes]]]
    """Returns the media type and the text of the metrics for an Accept header; raises TimeoutError if it cannot."""

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        """See ASGI."""
        status, kind, body = await self._answer(scope["method"], scope["path"], scope["headers"])
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        if status == 405:  # noqa: PLR2004 - HTTP's number
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, str, bytes]:
        if path not in {"/healthz", "/readyz", "/metrics"}:
            return 404, _TEXT, b"There are /healthz, /readyz and /metrics.\n"
        if method not in {"GET", "HEAD"}:
            return 405, _TEXT, b"Ask with GET.\n"
        if path == "/metrics":
            accept = b",".join(value for name, value in headers if name == b"accept")
            try:
                return 200, *await self.scraped(accept.decode("latin-1"))
            except TimeoutError:
                return 503, _TEXT, b"the numbers do not come\n"
        if not await self.is_alive():
            return 503, _TEXT, b"the event loop is stuck\n"
        if path == "/readyz" and not await self.is_ready():
            return 503, _TEXT, b"not ready\n"
        return 200, _TEXT, b"ok\n"
