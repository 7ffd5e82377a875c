"""The connection of one account while there is one, and whether it is to be released."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NoReturn

from gateway.compact_event import CompactEvent
from gateway.errors import HubError
from gateway.hub.methods import Hub
from gateway.replica.memory import memory_exhausted
from gateway.replica.source.backpressure import Backpressure
from gateway.signalr.connection import HubConnection
from gateway.telemetry.span import NO_SPAN, Span


class Released(HubError):
    """The connection was released on purpose; the message says why."""


class HubLink:
    """What an account and its shard may read, and request, of the connection that its supervisor makes."""

    __slots__ = (
        "_connection",
        "_failure",
        "_last_received_at",
        "_release",
        "_released_for",
        "backpressure",
        "connect_span",
        "deaf_connections",
        "hub",
        "pushes",
    )

    def __init__(self) -> None:
        self.hub: Hub | None = None
        """The hub's methods, while there is a connection."""
        self.pushes = 0
        """That came, over all connections."""
        self.deaf_connections = 0
        """Connections in a row that were given up because the hub pushed nothing over them."""
        self.backpressure = Backpressure()
        """When its socket is not read for a moment."""
        self.connect_span: Span = NO_SPAN
        """Of the last try to connect."""
        self._connection: HubConnection | None = None
        self._last_received_at: float | None = None
        self._release = CompactEvent()
        self._released_for = ""
        self._failure: Exception | None = None

    @property
    def is_up(self) -> bool:
        """Whether there is a connection to the hub."""
        return self._connection is not None

    @property
    def last_received_at(self) -> float | None:
        """When the last record of the hub was received over the present or the last connection, by the loop's clock."""
        return self._last_received_at if self._connection is None else self._connection.last_received_at

    @property
    def unfinished(self) -> int:
        """Bytes of a record that is not complete yet."""
        return 0 if self._connection is None else self._connection.unfinished

    @property
    def unread(self) -> int:
        """Bytes of the message that is being read."""
        return 0 if self._connection is None else self._connection.unread

    def on_up(self, connection: HubConnection) -> None:
        """A connection stands."""
        self._connection = connection

    def on_down(self) -> None:
        """It is gone."""
        if self._connection is not None:
            self._last_received_at = self._connection.last_received_at
        self._connection = self.hub = None

    # Letting it go --------------------------------------------------------------------------------------

    @property
    def is_released(self) -> bool:
        """Whether the connection is to be released, and none was made since."""
        return self._release.is_set()

    def release(self, why: str) -> None:
        """Let the connection go, and the next try to connect come at once."""
        self._released_for = why
        self._release.set()

    def fail(self, error: Exception) -> None:
        """Let the connection go, and raise `error` where it is served."""
        self._failure = error
        self._release.set()

    def give_way(self, unfinished: int) -> None:
        """Release the connection, whose record of so many bytes leaves no room for the others."""
        if self._connection is not None:
            self._connection.abandon(memory_exhausted(unfinished))

    def hold(self) -> None:
        """Let no connection go for what was asked before."""
        self._release.clear()

    async def until_released(self) -> NoReturn:
        """Wait until the connection is to be released, and raise why."""
        await self._release.wait()
        if (failure := self._failure) is not None:
            self._failure = None
            raise failure
        raise Released(self._released_for)

    async def wait_released(self, limit: float) -> None:
        """Wait for that, but not longer than `limit` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._release.wait()
