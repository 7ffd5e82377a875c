"""Whether the broker is as the gateway needs it, checked while it works: a person may change or delete what is there.

What a start does is repeated wherever a shard's log fails, and each few minutes. Missing streams and topics are created
again as far as the settings allow it and no promise suffers. A problem that only a person can fix is reported by an
ERROR, at most once a minute, by the accounts' errors, and by a metric and its alert.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NoReturn

from gateway.errors import ActionRequired, BrokerError, ConfigurationError, NotReady
from gateway.telemetry.logs import get_logger

_CHECK_INTERVAL_S: Final = 180.0
"""Seconds between two looks while all is well."""
_RECHECK_INTERVAL_S: Final = 15.0
"""Seconds between two looks while a fault is to be fixed."""
_FIRST_CHECK_DELAY_S: Final = 1.0
"""Seconds between two looks at the least, however many ask for one."""
_LOG_INTERVAL_S: Final = 60.0
"""Seconds for which the same message is not logged again."""
_REMEMBERED: Final = 100
_NUMBERS: Final = re.compile(r"\d+")


class LogThrottle:
    """Whether a message is to be logged: not within a minute of the same one, whatever numbers stand in it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._logged_at: dict[str, float] = {}

    def should_log(self, message: str) -> bool:
        """Return whether this message was not logged lately; then it counts as logged."""
        now, cause = self._clock(), _NUMBERS.sub("#", message)
        if now - self._logged_at.get(cause, float("-inf")) < _LOG_INTERVAL_S:
            return False
        self._logged_at.pop(cause, None)  # the newest stand last
        self._logged_at[cause] = now
        if len(self._logged_at) > _REMEMBERED:
            del self._logged_at[next(iter(self._logged_at))]
        return True


class Provisioning:
    """What is wrong with the broker's streams or topics, as far as only a person can fix it."""

    def __init__(self, look: Callable[[], Awaitable[object]] | None) -> None:
        """`look` creates what is missing and compares what is there; it raises ConfigurationError and BrokerError."""
        self.problem: str | None = None
        """The problem, as text for people; None where none is known."""
        self.not_ready: str | None = None
        """Why the broker does not serve though it is there, where that may pass by itself; None where it serves."""
        self.throttle = LogThrottle()
        self._check_now = look
        self._check_requested = asyncio.Event()

    def request_check(self) -> None:
        """Let it be looked soon: a log failed, or a connection is a new one."""
        self._check_requested.set()

    async def run(self) -> NoReturn:
        """Check each few minutes, and soon after a request."""
        while True:
            interval = _RECHECK_INTERVAL_S if self.problem or self.not_ready else _CHECK_INTERVAL_S
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._check_requested.wait()
            self._check_requested.clear()
            await self.check()
            await asyncio.sleep(_FIRST_CHECK_DELAY_S)

    async def check(self) -> None:
        """Look now; never raises for what may pass by itself."""
        if self._check_now is None:
            return
        self.not_ready = None
        try:
            await self._check_now()
        except NotReady as error:
            self.not_ready = str(error)
        except (ConfigurationError, ActionRequired) as error:
            self.problem = str(error)
            if self.throttle.should_log(self.problem):
                get_logger().error("broker does not meet the requirements", error=self.problem)
        except BrokerError:
            return  # the broker is unavailable or busy: the shard that needs it reports that
        else:
            if self.problem is not None:
                get_logger().info("broker meets the requirements again")
            self.problem = None
