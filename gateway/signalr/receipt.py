"""When a part of a WebSocket message came last: a long one on a slow line is no silence."""

from __future__ import annotations

import asyncio
from typing import Any


class Receipt:
    """The bytes of one WebSocket as they come, before they are messages.

    A whole frame says so by `framed`. So bytes behind which none is seen are a part of one; those of a ping, which
    may be a balancer's, are not.
    """

    __slots__ = ("_arrived", "_framed", "_grown", "_loop")

    def __init__(self, socket: Any) -> None:  # noqa: ANN401 - aiohttp's
        """Watch an open client WebSocket of aiohttp."""
        self._loop = asyncio.get_running_loop()
        self._arrived = self._framed = self._grown = float("-inf")
        connection = socket._response.connection  # noqa: SLF001 - aiohttp gives no other way to it
        if connection is not None:
            connection.protocol._data_received_cb = self._arrive  # noqa: SLF001 - what aiohttp's own heartbeat uses

    @property
    def partial_at(self) -> float:
        """When a part of an unfinished message came last, by the loop's clock; minus infinity for never."""
        return self._arrived if self._arrived > self._framed else self._grown

    def framed(self, now: float) -> None:
        """All bytes that came until `now`, by the loop's clock, were seen as messages."""
        self._framed = now

    def _arrive(self) -> None:
        self._grown = self.partial_at
        self._arrived = self._loop.time()
