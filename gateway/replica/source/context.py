"""What all accounts of a process share on their way to the hub."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.accounts import AccountsDirectory
from gateway.events.decode import Decoder
from gateway.replica.memory import MemoryBudget
from gateway.signalr.connect import Matched
from gateway.signalr.connection import HubConnection
from gateway.signalr.transport import Transport
from gateway.telemetry.counters import Counters
from gateway.telemetry.tracer import NOOP_TRACER, Tracer

_COPIES: Final = 4
"""The record, its result, the envelope and the canonical body: copies of an event while its page is read."""
_AROUND: Final = 1024
"""Bytes of the objects around one event."""
_AGREEING: Final = 3
"""Accounts that must ask for smaller pages until all do: of one or two it may be their events."""
_HOLDS: Final = 3600.0
"""Seconds for which they do."""
_RESTS: Final = 600.0
"""Seconds for which a size that failed as soon as it was reached again is not tried."""
_FASTER: Final = 1.1
_SLOWER: Final = 0.95
_LEAST: Final = 0.05
"""The part of the connections of a second that is still tried while the hub takes none."""


@dataclass(slots=True)
class AdaptivePageSize:
    """Events to ask for in one page, as all accounts of a hub do; each may ask for fewer (`AccountPageSize`)."""

    events: int
    """What the hub takes, as far as is known."""
    room: int
    """Expected maximum bytes of a page: events that are as large are requested one by one."""
    most: int = field(init=False)
    """The most that settings allow."""
    event_bytes: float = 1024.0
    """The running average of an envelope's size."""
    proven: int = 1
    """Events of the largest page that came whole: what accounts agree on is never below it."""
    _lowered: dict[str, int] = field(default_factory=dict)
    """By account: the smaller pages that it asks for."""
    _holds_until: float = 0.0
    """A monotonic time, until which more is not tried."""

    def __post_init__(self) -> None:
        """Begin with the most that the settings allow."""
        self.most = self.events

    @property
    def size(self) -> int:
        """Events to ask for in the next page."""
        return max(1, min(self.events, int(self.room / self._cost)))

    @property
    def expected_bytes(self) -> int:
        """What the next page is expected to take at its worst moment, when it is there raw and decoded."""
        return int(self.size * self._cost)

    @property
    def _cost(self) -> float:
        return _COPIES * self.event_bytes + _AROUND

    def reduce(self, account: str, events: int) -> None:
        """Note that `account` asks for so few now; where several do, what they agree on holds for all for an hour."""
        self._lowered[account] = events
        if len(self._lowered) >= _AGREEING:
            self.events = min(self.events, max(self.proven, *self._lowered.values()))
            self._lowered.clear()
            self._holds_until = time.monotonic() + _HOLDS

    def restore(self, account: str) -> None:
        """Note that `account` asks for as much as all again."""
        self._lowered.pop(account, None)

    def on_page(self, envelopes: list[bytes]) -> None:
        """A page came whole: note how large events are; where all ask for less, try more again after an hour."""
        self.proven = max(self.proven, min(len(envelopes), self.most))
        if envelopes:
            average = sum(map(len, envelopes)) / len(envelopes)
            self.event_bytes += (average - self.event_bytes) / 8
        if self.events < self.most and time.monotonic() > self._holds_until:
            self.events = self.most


class AccountPageSize:
    """Events that one account asks for in a page: fewer than others where its pages fail, and more again later."""

    def __init__(self, account: str, shared: AdaptivePageSize, most: int) -> None:
        """Ask for what all do, and never for more than `most`."""
        self._account = account
        self._shared = shared
        self._most = most
        self._events: int | None = None
        self._grown_to = 0
        self._holds_until = 0.0

    @property
    def size(self) -> int:
        """Events to ask for in the next page."""
        asks = min(self._most, self._shared.size)
        return asks if self._events is None else min(asks, self._events)

    @property
    def expected_bytes(self) -> int:
        """What the next page is expected to take."""
        return self._shared.expected_bytes * self.size // self._shared.size

    def halve(self, asked: int, *, is_limit: bool) -> bool:
        """Request half of what was `asked` for; return False where that is one event.

        `is_limit`: the hub reports that as its maximum, so more is not tried again for an hour.
        """
        if asked <= 1:
            return False
        self._events = asked // 2
        if is_limit:
            self._holds_until = time.monotonic() + _HOLDS
        elif asked == self._grown_to:
            self._holds_until = time.monotonic() + _RESTS
        self._shared.reduce(self._account, self._events)
        return True

    def on_page(self, envelopes: list[bytes]) -> None:
        """A page came whole: ask for twice as much, unless that failed just now."""
        self._shared.on_page(envelopes)
        if self._events is None or time.monotonic() < self._holds_until:
            return
        self._events = self._grown_to = 2 * self._events
        if self._events >= min(self._most, self._shared.size):
            self._events = None
            self._shared.restore(self._account)


class RateLimiter:
    """A rate limiter: so many turns a second, first come, first served; fewer while the hub takes no connection."""

    def __init__(self, most: float) -> None:
        """`most` is turns a second, where all goes well."""
        self.rate = most
        """Turns a second now."""
        self._most = most
        self._free_at = 0.0

    async def acquire(self, turns: float = 1) -> None:
        """Wait for one's turn, or for so many; one that is not used, since its waiter was cancelled, is lost."""
        now = asyncio.get_running_loop().time()
        at = max(now, self._free_at)
        self._free_at = at + turns / self.rate
        if at > now:
            await asyncio.sleep(at - now)

    def on_success(self) -> None:
        """The hub took a connection: from the least, the most is reached again after thirty of them."""
        self.rate = min(self._most, self.rate * _FASTER)

    def on_failure(self) -> None:
        """It did not, and not for a wrong key: with thousands of accounts, their own backoffs are not slow enough."""
        self.rate = max(self._most * _LEAST, self.rate * _SLOWER)


Connect = Callable[[str, str, Matched], Awaitable[HubConnection]]
"""Connects to the hub at a URL with a key, and reports each stage, as `gateway.signalr.connection.connect` does."""


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What all accounts of a process share on their way to the hub."""

    url: str
    """The hub's own URL, with its path."""
    transport: Transport
    connect: Connect
    keys: AccountsDirectory
    connecting: asyncio.Semaphore
    """Bounds the connections that are in the making."""
    rate_limiter: RateLimiter
    """Bounds the new connections of a second."""
    page_size: AdaptivePageSize
    audit_interval: float
    """Seconds between audits."""
    budget: MemoryBudget
    """Bounds the bytes that wait, of all accounts together."""
    counters: Counters
    """What is counted of all accounts together."""
    decoder: Decoder
    """Reads what the hub sends, with the operator's setting for the numbers of enums."""
    max_dead_letters: int = 6000
    """In a minute, of one account."""
    skip_poison_after: int | None = None
    """Failures of one event alone after which it is passed; None for never."""
    tracer: Tracer = NOOP_TRACER
