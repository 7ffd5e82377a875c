"""The bytes received over a WebSocket that are no message yet: when the last part came, and how many bytes wait.

A long message on a slow line is no silence; and an endless one takes memory that no other limit sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import aiohttp

_STEP: Final = 64 * 1024
"""Bytes after which the owner is notified of more."""
_FEW: Final = 4 * 1024
_DATA: Final = {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}
_SHORT: Final = 126
"""Bytes below which a frame has a head of two; below `_LONG` it has one of four, else of ten."""
_LONG: Final = 65_536


class Receipt:
    """The bytes of one WebSocket as they come, before they are messages.

    A whole frame is reported by `framed`. So bytes behind which none is seen are a part of one; those of a ping, which
    may be a balancer's, are not.
    """

    __slots__ = (
        *("_arrived", "_framed", "_grown", "_loop", "_parser", "_protocol", "_queue", "_recent"),
        *("_reported", "_waiting", "on_growth"),
    )

    def __init__(self, socket: Any) -> None:  # noqa: ANN401 - aiohttp's
        """Watch an open client WebSocket of aiohttp."""
        self._loop = asyncio.get_running_loop()
        self._arrived = self._framed = self._grown = float("-inf")
        self._waiting = 0
        self.on_growth: Callable[[], None] | None = None
        """Called soon after so much more waits that it matters."""
        self._reported = 0
        self._recent = 0  # bytes since a chunk in which a message ended, and of that chunk
        self._queue = socket._reader  # noqa: SLF001 - aiohttp gives no other way to it
        connection = socket._response.connection  # noqa: SLF001 - likewise
        self._protocol = protocol = None if connection is None else connection.protocol
        if protocol is not None:
            protocol._data_received_cb = self._arrive  # noqa: SLF001 - what aiohttp's own heartbeat uses
            self._parser = protocol._payload_parser  # noqa: SLF001 - likewise
            protocol._payload_parser = self  # noqa: SLF001 - it looks like one

    def end(self) -> None:
        """Watch no longer: each of both refers to the other, and would stay until the garbage collector looks."""
        self.on_growth = None
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol._data_received_cb = None  # noqa: SLF001 - as above
            if protocol._payload_parser is self:  # noqa: SLF001 - likewise
                protocol._payload_parser = self._parser  # noqa: SLF001 - likewise

    @property
    def waiting(self) -> int:
        """Bytes of messages that are not complete, or not read; 0 for a few, which may be heads of frames."""
        return self._waiting if self._waiting > _FEW else 0

    @property
    def partial_at(self) -> float:
        """When a part of an unfinished message came last, by the loop's clock; minus infinity for never."""
        return self._arrived if self._arrived > self._framed else self._grown

    def framed(self, now: float, size: int) -> None:
        """A message of `size` bytes was read; all that came until `now`, by the loop's clock, was seen as messages.

        Frames into which a message was split have heads of their own, so what is counted is held to what can be.
        """
        self._framed = now
        waiting = self._waiting - size - (2 if size < _SHORT else 4 if size < _LONG else 10)
        if waiting > 0:
            waiting = min(waiting, self._recent + self._queue._size)  # noqa: SLF001 - as above
        self._waiting = max(0, waiting)
        if self._reported > waiting:
            self._reported = self._waiting

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Count `data` and hand it to aiohttp's parser."""
        queue = self._queue._buffer  # noqa: SLF001 - as above
        before, size = len(queue), len(data)
        result: tuple[bool, bytes] = self._parser.feed_data(data)
        self._waiting += size
        has_ended = any(queue[place][0].type in _DATA for place in range(before, len(queue)))
        self._recent = size if has_ended else self._recent + size
        if self._waiting > self._reported + _STEP and self.on_growth is not None:
            self._reported = self._waiting
            self._loop.call_soon(self.on_growth)
        return result

    def feed_eof(self) -> None:
        """Pass it on to aiohttp's parser."""
        self._parser.feed_eof()

    def _arrive(self) -> None:
        self._grown = self.partial_at
        self._arrived = self._loop.time()
