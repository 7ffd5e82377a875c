"""WebSocket messages as aiohttp has them."""

from __future__ import annotations

from typing import Any, Final

import aiohttp

CLOSE_TIMEOUT_S: Final = 1.0
"""Seconds for closing in good order."""

Socket = aiohttp.ClientWebSocketResponse[bool]
TEXT: Final = aiohttp.WSMsgType.TEXT
BINARY: Final = aiohttp.WSMsgType.BINARY
PING: Final = aiohttp.WSMsgType.PING
PONG: Final = aiohttp.WSMsgType.PONG


def size_of(message: Any) -> int:  # noqa: ANN401 - of one of two types of aiohttp
    """Return the bytes of a message, as far as they count."""
    return len(message.data) if isinstance(message.data, bytes | bytearray) else 0
