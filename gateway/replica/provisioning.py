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

from gateway.errors import BrokerError, ConfigurationError, NeedsPerson
from gateway.telemetry.logs import get_logger

_EACH: Final = 180.0
"""Seconds between two looks while all is well."""
_TROUBLED: Final = 15.0
"""Seconds between two looks while something is to be mended."""
_SOON: Final = 1.0
"""Seconds between two looks at the least, however many ask for one."""
_SAID: Final = 60.0
"""Seconds for which the same words are not said again."""
_REMEMBERED: Final = 100
_NUMBERS: Final = re.compile(r"\d+")


class Seldom:
    """Whether words are to be said: not within a minute of the same ones, whatever numbers stand in them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._said: dict[str, float] = {}

    def is_to_be_said(self, words: str) -> bool:
        """Return whether nobody said so lately; then it counts as said."""
        now, cause = self._clock(), _NUMBERS.sub("#", words)
        if now - self._said.get(cause, float("-inf")) < _SAID:
            return False
        self._said.pop(cause, None)  # the newest stand last
        self._said[cause] = now
        if len(self._said) > _REMEMBERED:
            del self._said[next(iter(self._said))]
        return True


class Provisioning:
    """What is wrong with the broker's streams or topics, as far as only a person can mend it."""

    def __init__(self, look: Callable[[], Awaitable[object]] | None) -> None:
        """`look` makes what is missing and compares what is there; it raises ConfigurationError and BrokerError."""
        self.trouble: str | None = None
        """In words for people; None where nothing is known to be wrong."""
        self.seldom = Seldom()
        self._look_now = look
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Let it be looked soon: a log failed, or a connection is a new one."""
        self._asked.set()

    async def run(self) -> NoReturn:
        """Look each few minutes, and soon after somebody asks."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_EACH if self.trouble is None else _TROUBLED):
                    await self._asked.wait()
            self._asked.clear()
            await self.look()
            await asyncio.sleep(_SOON)

    async def look(self) -> None:
        """Look now; never raises for what may pass by itself."""
        if self._look_now is None:
            return
        try:
            await self._look_now()
        except (ConfigurationError, NeedsPerson) as error:
            self.trouble = str(error)
            if self.seldom.is_to_be_said(self.trouble):
                get_logger().error("the broker is not as the gateway needs it", error=self.trouble)
        except BrokerError:
            return  # it is away, or busy: whoever needs it says so
        else:
            if self.trouble is not None:
                get_logger().info("the broker is as the gateway needs it again")
            self.trouble = None
