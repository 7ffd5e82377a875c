"""The limit of new connections to Kafka: few at a time at each address, in one process.

A broker may admit few connections a second (`max.connection.creation.rate`), and then keeps the others waiting. A
client that gives such a connection up and opens another makes the queue longer for all. So a try at an address is given
more time after each that was too short, and all callers behind it receive its failure.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka.errors import KafkaError

CLOSED: Final = (OSError, EOFError, KafkaError)
"""What a try at opening a connection fails with; TimeoutError is an OSError."""
_AT_ONCE: Final = 2
"""Connections in the making at one address."""
_FIRST: Final = 2.0
_LONGEST: Final = 20.0
"""Seconds for one try: they double after each that was too short."""


class _Address:
    def __init__(self, limit: float) -> None:
        self.turns = asyncio.Semaphore(_AT_ONCE)
        self.limit = limit
        self.failed_at = 0.0
        self.failure: BaseException | None = None


class ConnectionLimit:
    """The openings of one process."""

    def __init__(self, timeout: float) -> None:
        """`timeout` are the seconds of any one call."""
        self._first = min(_FIRST, timeout / 2)
        self._longest = max(self._first, min(_LONGEST, 2 * timeout))
        self._addresses: defaultdict[tuple[str, int], _Address]
        self._addresses = defaultdict(lambda: _Address(self._first))
        self.opened = 0
        """Connections so far."""

    async def slot(self, host: str, port: int, attempt: Callable[[float], Coroutine[Any, Any, Any]]) -> Any:  # noqa: ANN401 - aiokafka's own
        """Await `attempt` with its limit in seconds, when it is its turn; raises one of CLOSED.

        Where another try at the address fails meanwhile, this raises the same.
        """
        address, clock = self._addresses[host, port], asyncio.get_running_loop().time
        asked = clock()
        async with address.turns:
            if address.failure is not None and address.failed_at >= asked:
                raise address.failure
            try:
                made = await attempt(address.limit)
            except CLOSED as error:
                address.failure, address.failed_at = error, clock()
                if isinstance(error, TimeoutError):
                    address.limit = min(2 * address.limit, self._longest)
                raise
        address.failure = None
        address.limit = max(address.limit / 2, self._first)
        self.opened += 1
        return made


class CallTimeLimit:
    """The time limit of a call, without the time for which its client waits to connect.

    A failed connection does count, so that an unavailable broker delays no caller.
    """

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self._clock = asyncio.get_running_loop().time
        self._left = 0.0
        self._openings = 0
        self.is_over = False
        """Whether the call has ended; openings that it began may go on."""

    def began(self) -> None:
        """Note that the client opens a connection."""
        when = self._limit.when()
        if self._openings == 0 and when is not None and self._is_on():
            self._left = when - self._clock()
            self._limit.reschedule(None)
        self._openings += 1

    def ended(self, wasted: float) -> None:
        """Note that the client has opened one, or wasted some seconds."""
        self._openings -= 1
        self._left -= wasted
        if (self._openings == 0 or self._left <= 0) and self._is_on():
            self._limit.reschedule(self._clock() + max(0.0, self._left))

    def _is_on(self) -> bool:
        return not self.is_over and not self._limit.expired()


@asynccontextmanager
async def time_limit(client: Any, seconds: float) -> AsyncIterator[None]:  # noqa: ANN401 - aiokafka's own
    """Raise TimeoutError in the block after so many seconds, without those in which `client` is let in."""
    before = getattr(client, "_gateway_time_limit", None)
    async with asyncio.timeout(seconds) as limit:
        client._gateway_time_limit = own = CallTimeLimit(limit)  # noqa: SLF001 - ours
        try:
            yield
        finally:
            own.is_over = True
            client._gateway_time_limit = before  # noqa: SLF001
