"""What all accounts of a process share on their way to the hub."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from gateway.accounts import AccountsDirectory
from gateway.events.decode import Decoder
from gateway.replica.budget import Budget
from gateway.signalr.connection import Transport
from gateway.telemetry.tally import Tally
from gateway.telemetry.traces import OFF, Tracer

_COPIES: Final = 4
"""The record, its result, the envelope and the canonical body: copies of an event while its page is read."""
_AROUND: Final = 1024
"""Bytes of the objects around one event."""
_FASTER: Final = 1.1
_SLOWER: Final = 0.95
_LEAST: Final = 0.05
"""The part of the connections of a second that is still tried while the hub takes none."""


@dataclass(slots=True)
class PageLimit:
    """Events to ask for in one page: shared by all accounts of a hub, and remembered."""

    events: int
    """What the hub takes, as far as is known."""
    room: int
    """Bytes that a page may be expected to take: events are asked for one by one, if they are that large."""
    most: int = field(init=False)
    """The most that the hub takes: `events` never rises above what was refused."""
    event_bytes: float = 1024.0
    """The running average of an envelope's size."""
    proven: int = 1
    """The largest page that came whole."""

    def __post_init__(self) -> None:
        """Begin with the most that the settings allow."""
        self.most = self.events

    @property
    def asks(self) -> int:
        """Events to ask for in the next page."""
        return max(1, min(self.events, int(self.room / self._cost)))

    @property
    def expected_bytes(self) -> int:
        """What the next page is expected to take at its worst moment, when it is there raw and decoded."""
        return int(self.asks * self._cost)

    @property
    def _cost(self) -> float:
        return _COPIES * self.event_bytes + _AROUND

    def lower(self, asked: int, *, refused: bool) -> bool:
        """Halve what was `asked` for, unless another account has done it; give False where it cannot be lowered.

        `refused`: the hub will never take so much.
        """
        half = max(1, asked // 2)
        if half < asked:
            self.events = min(self.events, half)
            self.most = min(self.most, half) if refused else self.most
        return half < asked

    def forgive(self) -> None:
        """A page of one event was too large: it is that event, and others may ask for what went well before."""
        self.events = self.most = self.proven

    def served(self, envelopes: list[bytes]) -> None:
        """A page came whole: note how large events are; after a hub that was only slow, ask for more again."""
        self.proven = max(self.proven, min(len(envelopes), self.most))
        if envelopes:
            average = sum(map(len, envelopes)) / len(envelopes)
            self.event_bytes += (average - self.event_bytes) / 8
        if len(envelopes) >= self.events:
            self.events = min(self.most, self.events + max(1, self.events // 10))


class Pace:
    """So many turns a second, first come, first served; fewer while the hub takes nobody."""

    def __init__(self, most: float) -> None:
        """`most` is turns a second, where all goes well."""
        self.rate = most
        """Turns a second now."""
        self._most = most
        self._free_at = 0.0

    async def turn(self, turns: float = 1) -> None:
        """Wait for one's turn, or for so many; one that is not used, since its waiter was cancelled, is lost."""
        now = asyncio.get_running_loop().time()
        at = max(now, self._free_at)
        self._free_at = at + turns / self.rate
        if at > now:
            await asyncio.sleep(at - now)

    def succeeded(self) -> None:
        """The hub took a connection: from the least, the most is reached again after thirty of them."""
        self.rate = min(self._most, self.rate * _FASTER)

    def failed(self) -> None:
        """It did not, and not for a wrong key: with thousands of accounts, their own backoffs are not slow enough."""
        self.rate = max(self._most * _LEAST, self.rate * _SLOWER)


@dataclass(frozen=True, slots=True)
class HubAccess:
    """What all accounts of a process share on their way to the hub."""

    url: str
    """The hub's own URL, with its path."""
    transport: Transport
    keys: AccountsDirectory
    connecting: asyncio.Semaphore
    """Bounds the connections that are in the making."""
    pace: Pace
    """Bounds the new connections of a second."""
    page_limit: PageLimit
    audit_interval: float
    """Seconds between audits."""
    budget: Budget
    """Bounds the bytes that wait, of all accounts together."""
    tally: Tally
    """What is counted of all accounts together."""
    decoder: Decoder
    """Reads what the hub sends; it knows what the operator says of the numbers of enums."""
    tracer: Tracer = OFF
