"""Whether the broker is as the gateway needs it, looked at while it works: somebody may change or delete what is there.

What a start does is done again wherever a shard's log fails, and each few minutes. Streams and topics that are gone are
made again as far as the settings allow it and no promise suffers. What only a person can mend is told at ERROR,
once a minute at the most, and by the accounts' errors, a metric and its alert.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NoReturn

from gateway.errors import ActionRequired, BrokerError, ConfigurationError
from gateway.telemetry.logs import get_logger

_CHECK_INTERVAL_S: Final = 180.0
"""Seconds between two looks while all is well."""
_RECHECK_INTERVAL_S: Final = 15.0
"""Seconds between two looks while something is to be mended."""
_FIRST_CHECK_DELAY_S: Final = 1.0
"""Seconds between two looks at the least, however many ask for one."""
_LOG_INTERVAL_S: Final = 60.0
"""Seconds for which the same words are not said again."""
_REMEMBERED: Final = 100
_NUMBERS: Final = re.compile(r"\d+")


class LogThrottle:
    """Whether words are to be said: not within a minute of the same ones, whatever numbers stand in them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._logged_at: dict[str, float] = {}

    def should_log(self, words: str) -> bool:
        """Return whether these words were not logged lately; then they count as logged."""
        now, cause = self._clock(), _NUMBERS.sub("#", words)
        if now - self._logged_at.get(cause, float("-inf")) < _LOG_INTERVAL_S:
            return False
        self._logged_at.pop(cause, None)  # the newest stand last
        self._logged_at[cause] = now
        if len(self._logged_at) > _REMEMBERED:
            del self._logged_at[next(iter(self._logged_at))]
        return True


class Provisioning:
    """What is wrong with the broker's streams or topics, as far as only a person can mend it."""

    def __init__(self, look: Callable[[], Awaitable[object]] | None) -> None:
        """`look` makes what is missing and compares what is there; it raises ConfigurationError and BrokerError."""
        self.problem: str | None = None
        """In words for people; None where nothing is known to be wrong."""
        self.throttle = LogThrottle()
        self._check_now = look
        self._check_requested = asyncio.Event()

    def request_check(self) -> None:
        """Let it be looked soon: a log failed, or a connection is a new one."""
        self._check_requested.set()

    async def run(self) -> NoReturn:
        """Look each few minutes, and soon after somebody asks."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_INTERVAL_S if self.problem is None else _RECHECK_INTERVAL_S):
                    await self._check_requested.wait()
            self._check_requested.clear()
            await self.check()
            await asyncio.sleep(_FIRST_CHECK_DELAY_S)

    async def check(self) -> None:
        """Look now; never raises for what may pass by itself."""
        if self._check_now is None:
            return
        try:
            await self._check_now()
        except (ConfigurationError, ActionRequired) as error:
            self.problem = str(error)
            if self.throttle.should_log(self.problem):
                get_logger().error("broker does not meet the requirements", error=self.problem)
        except BrokerError:
            return  # it is away, or busy: whoever needs it says so
        else:
            if self.problem is not None:
                get_logger().info("broker meets the requirements again")
            self.problem = None
