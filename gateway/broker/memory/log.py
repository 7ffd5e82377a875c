"""The event log in memory: many replicas on one `MemoryBroker`, with faults at each of its edges."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from gateway.broker.memory.faults import Edge, Effect, Faults, no_effect, no_faults
from gateway.broker.ports import Commit, Limits, Lost, Stored, check_limits
from gateway.errors import BrokerError, ConfigurationError, Fenced, OutcomeUnknown, TooLarge


@dataclass(slots=True)
class _Entry:
    stored: Stored
    at: float


@dataclass(frozen=True, slots=True)
class _Undo:
    """What a commit changed."""

    shard: int
    messages: int
    """How many it added, at the end."""
    checkpoints: dict[str, bytes]
    """Those of the shard before it."""
    state: int
    """Of the shard before it."""


@dataclass(slots=True)
class MemoryBroker:
    """The one broker of a simulation, shared by all its replicas."""

    limits: Limits = field(default_factory=lambda: Limits(messages=1000, bytes=16 * 1024 * 1024))
    largest: int | None = None
    """Bytes of one message (`Message.size`); None for no limit."""
    faults: Faults = no_faults
    """May be exchanged at any time."""
    clock: Callable[[], float] = time.time
    """Seconds since 1970, for reads from a time."""
    entries: list[_Entry] = field(default_factory=list)
    stored_checkpoints: dict[int, dict[str, bytes]] = field(default_factory=dict)
    """By shard and account."""
    epochs: dict[int, int] = field(default_factory=dict)
    """By shard: how many claims it has seen; the last one owns it."""
    owners: dict[int, str] = field(default_factory=dict)
    can_lose: int = 0
    """How many of the last commits `go_back` can lose."""
    states: dict[int, int] = field(default_factory=dict)
    """By shard: which commit stored what it holds now; no two share a number."""
    _commits: int = 0
    _undo: deque[_Undo] = field(default_factory=deque)
    _grown: asyncio.Event = field(default_factory=asyncio.Event)

    def log(self, owner: str) -> MemoryLog:
        """Return the log as the replica `owner` sees it."""
        return MemoryLog(self, owner)

    def reader(self, owner: str = "reader") -> MemoryReader:
        """Return a reader of the topics."""
        return MemoryReader(self, owner)

    def claim(self, shard: int, owner: str) -> int:
        """Make `owner` the shard's writer and give its epoch."""
        self.epochs[shard] = self.epochs.get(shard, 0) + 1
        self.owners[shard] = owner
        return self.epochs[shard]

    def store(self, shard: int, epoch: int, builds_on: int, commit: Commit) -> bool:
        """Store a commit, unless a newer claim stands, or the shard is not in the state that the commit builds on."""
        if self.epochs.get(shard) != epoch or self.states.get(shard, 0) != builds_on:
            return False
        now = self.clock()
        if self.can_lose:
            checkpoints = dict(self.stored_checkpoints.get(shard, {}))
            self._undo.append(_Undo(shard, len(commit.messages), checkpoints, builds_on))
            if len(self._undo) > self.can_lose:
                self._undo.popleft()
        self._commits += 1
        self.states[shard] = self._commits
        for message in commit.messages:
            self.entries.append(_Entry(Stored(message, str(len(self.entries) + 1)), now))
        stored = self.stored_checkpoints.setdefault(shard, {})
        for name, checkpoint in commit.checkpoints.items():
            if checkpoint is None:
                stored.pop(name, None)
            else:
                stored[name] = checkpoint
        self._grown.set()
        self._grown = asyncio.Event()
        return True

    def go_back(self, commits: int) -> int:
        """Lose the last commits of all shards together, as a store that loses power; returns how many. Claims stand."""
        lost = 0
        while lost < commits and self._undo:
            undo = self._undo.pop()
            del self.entries[len(self.entries) - undo.messages :]
            self.stored_checkpoints[undo.shard] = undo.checkpoints
            self.states[undo.shard] = undo.state
            lost += 1
        return lost

    def before_last(self) -> tuple[dict[str, bytes], dict[str, bytes]] | None:
        """Return the checkpoints of a shard before the last commit, and after it; None where it cannot be lost."""
        if not self._undo:
            return None
        last = self._undo[-1]
        return last.checkpoints, self.stored_checkpoints[last.shard]

    def fenced(self, shard: int) -> Fenced:
        """Return the error that names the owner of `shard`."""
        return Fenced(f"shard {shard} was claimed by {self.owners.get(shard)} (epoch {self.epochs.get(shard)})")

    async def grown(self) -> None:
        """Wait until something is stored."""
        await self._grown.wait()


class MemoryLog:
    """The event log in memory (`gateway.broker.ports.EventLog`)."""

    def __init__(self, broker: MemoryBroker, owner: str) -> None:
        self._broker = broker
        self._owner = owner
        self._interrupted: set[int] = set()
        """Shards in which a writer of ours failed."""

    @asynccontextmanager
    async def open(self, shard: int) -> AsyncIterator[MemoryShard]:
        """Claim `shard`; see the contract."""
        if shard in self._interrupted and self._broker.owners.get(shard) != self._owner:
            self._interrupted.discard(shard)
            raise self._broker.fenced(shard)
        effect = Effect(lambda: self._broker.claim(shard, self._owner) > 0)
        await self._broker.faults(Edge("open", "before", self._owner, shard, effect.land))
        effect.land()
        epoch = self._broker.epochs[shard]
        await self._broker.faults(Edge("open", "after", self._owner, shard, effect.land))
        self._interrupted.discard(shard)
        opened = MemoryShard(self._broker, self._owner, shard, epoch)
        try:
            yield opened
        finally:
            if opened.is_interrupted:
                self._interrupted.add(shard)


class MemoryShard:
    """The writer of one shard (`gateway.broker.ports.ShardLog`)."""

    def __init__(self, broker: MemoryBroker, owner: str, shard: int, epoch: int) -> None:
        self._broker = broker
        self._owner = owner
        self._shard = shard
        self._epoch = epoch
        self._spent: BrokerError | None = None
        self._state = broker.states.get(shard, 0)
        self._is_read = False

    @property
    def epoch(self) -> int:
        """How many claims the shard had seen with this one."""
        return self._epoch

    @property
    def limits(self) -> Limits:
        """What one commit may hold."""
        return self._broker.limits

    @property
    def lost(self) -> Mapping[str, Collection[Lost]]:
        """See the contract: events and checkpoints are in one store, which loses both."""
        return {}

    async def checkpoints(self) -> dict[str, bytes]:
        """Return every checkpoint of the shard; see the contract."""
        await self._broker.faults(Edge("checkpoints", "before", self._owner, self._shard, no_effect))
        if self._broker.epochs[self._shard] != self._epoch:
            raise self._spend(self._broker.fenced(self._shard))
        found = dict(self._broker.stored_checkpoints.get(self._shard, {}))
        if self._is_read and self._state != self._broker.states.get(self._shard, 0):
            raise self._spend(self._problem())
        self._state, self._is_read = self._broker.states.get(self._shard, 0), True
        await self._broker.faults(Edge("checkpoints", "after", self._owner, self._shard, no_effect))
        return found

    async def commit(self, commit: Commit) -> None:
        """Store all of `commit` or nothing; see the contract."""
        if self._spent is not None:
            raise type(self._spent)(f"this log is spent: {self._spent}") from self._spent
        check_limits(commit, self._broker.limits)
        if not commit.messages and not commit.checkpoints:
            return
        for index, message in enumerate(commit.messages):
            if self._broker.largest is not None and message.size > self._broker.largest:
                raise TooLarge(index, message.size, self._broker.largest)
        self._spent = OutcomeUnknown("a commit was cancelled")
        kept = Commit(tuple(commit.messages), dict(commit.checkpoints))
        effect = Effect(lambda: self._broker.store(self._shard, self._epoch, self._state, kept))
        try:
            await self._broker.faults(Edge("commit", "before", self._owner, self._shard, effect.land))
            stored = effect.land()
            stored_as = self._broker.states.get(self._shard, 0)
            await self._broker.faults(Edge("commit", "after", self._owner, self._shard, effect.land))
        except BrokerError as error:
            raise self._spend(error) from None
        if not stored:
            raise self._spend(self._problem())
        self._state = stored_as
        self._spent = None

    async def check(self) -> None:
        """Check whether what this writer stored last is there; see the contract."""
        await self._broker.faults(Edge("check", "before", self._owner, self._shard, no_effect))
        if self._broker.states.get(self._shard, 0) != self._state:
            raise self._spend(self._problem())

    def _problem(self) -> BrokerError:
        if self._broker.epochs.get(self._shard) != self._epoch:
            return self._broker.fenced(self._shard)
        return OutcomeUnknown(f"shard {self._shard} is not in the state that was read: the store went back")

    @property
    def is_interrupted(self) -> bool:
        """Whether it is spent though no other owner of the shard is known."""
        return self._spent is not None and not isinstance(self._spent, Fenced)

    def _spend(self, error: BrokerError) -> BrokerError:
        self._spent = error
        return error


class MemoryReader:
    """Reads the topics in memory (`gateway.broker.ports.LogReader`)."""

    def __init__(self, broker: MemoryBroker, owner: str) -> None:
        self._broker = broker
        self._owner = owner

    async def read(
        self, *, topics: Sequence[str] | None, accounts: Sequence[str] | None, start: str, follow: bool
    ) -> AsyncIterator[Stored]:
        """Yield the messages in the log's order; see the contract."""
        await self._broker.faults(Edge("read", "before", self._owner, None, no_effect))

        def wanted(entry: _Entry) -> bool:
            message = entry.stored.message
            return (topics is None or message.topic in topics) and (accounts is None or message.account in accounts)

        entries = self._broker.entries
        end = len(entries)
        place = self._first(start, wanted)
        while True:
            while place < (len(entries) if follow else end):
                entry = entries[place]
                place += 1
                if wanted(entry):
                    yield entry.stored
            if not follow:
                return
            await self._broker.grown()

    def _first(self, start: str, wanted: Callable[[_Entry], bool]) -> int:
        entries = self._broker.entries
        if start == "first":
            return 0
        if start == "new":
            return len(entries)
        if start == "last":
            return max((place for place, entry in enumerate(entries) if wanted(entry)), default=len(entries))
        if start.isdecimal():
            return max(int(start) - 1, 0)
        try:
            since = datetime.fromisoformat(start).timestamp()
        except ValueError as error:
            raise ConfigurationError(
                "start", f"{start!r}: {error}", "Give first, last, new, a position or a time."
            ) from error
        return next((place for place, entry in enumerate(entries) if entry.at >= since), len(entries))
