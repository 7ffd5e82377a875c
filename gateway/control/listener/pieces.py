"""Sends large bodies in pieces, so that what a peer leaves unread is not kept once more for each peer.

The server copies what it is given, and a slow peer's copy waits in memory. Of a body in pieces it has one, and the app
waits for the peer, too. Until then the request holds its resources, such as its share of the requests at once.
"""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PIECE: Final = 64 * 1024
"""Bytes, as many as the server queues before it waits."""


class SplitLargeResponses:
    """Passes what `app` answers on to the server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def forward(message: Message) -> None:
            body = message.get("body", b"")
            if message["type"] != "http.response.body" or len(body) <= _PIECE or scope["method"] == "HEAD":
                await send(message)
                return
            for start in range(0, len(body), _PIECE):
                is_last = start + _PIECE >= len(body)
                more = message.get("more_body", False) or not is_last
                await send({**message, "body": body[start : start + _PIECE], "more_body": more})

        await self._app(scope, receive, forward)
