"""What a hub says to a request when a test says it for the hub."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.Response]]


def answering(text: str | bytes, status: int = 200, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        body = text.encode() if isinstance(text, str) else text
        return web.Response(body=body, status=status, headers={n.replace("_", "-"): v for n, v in headers.items()})

    return answer
