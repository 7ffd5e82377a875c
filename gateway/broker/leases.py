"""Ownership by leases, for brokers with records that expire: which member serves which shard of a deployment.

Members announce themselves. From the members and the present owners every member computes the same assignment: even
shares, in which nothing moves but what a member must give up or has left behind. A lease, made by compare-and-set,
names the actual owner of a shard. The member to which a free lease is assigned takes it, and an owner gives up a lease
that is assigned to another.

Time is the store's: leases end by its clock, and members use no clock but the monotonic one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, Protocol, TypeVar
from uuid import uuid4

from gateway.errors import BrokerError, Conflict, OutcomeUnknown, Unavailable

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_LEAVE_TIMEOUT_S: Final = 2.0
"""Seconds for announcing a departure; a record that was not removed by then expires."""


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """Seconds."""

    lease: float = 3.0
    """Until a record that is not written again has expired."""
    renewal: float = 1.0
    """Between two writes of the same record."""
    look: float = 0.5
    """Between two looks at the members and the free leases: the store does not report that a record expired."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A record as the store has it."""

    revision: int
    token: str
    """The owner."""


class LeaseStore(Protocol):
    """Records that are gone some seconds after they were written last. Every call raises Unavailable.

    Names are `member.<token>` and `lease.<shard>`.
    """

    @property
    def generation(self) -> object:
        """Whatever is another one as soon as revisions learnt before may mean something else now."""
        ...

    async def names(self) -> frozenset[str]:
        """Return the names of all records that are there."""
        ...

    async def read(self, name: str) -> Lease | None:
        """Return a record."""
        ...

    async def write(self, name: str, token: str, expect: int | None) -> int:
        """Write a record if its revision is `expect` (0: if there is none; None: anyway), and return its new one.

        Raises Conflict, OutcomeUnknown.
        """
        ...

    async def erase(self, name: str, revision: int) -> None:
        """Take that revision of a record away, if it is still there."""
        ...


def assign(shards: int, members: Collection[str], holders: Mapping[int, str]) -> list[str]:
    """Return for each shard which of `members` should hold it, where `holders` have some of them now.

    Shares differ by at most one. A holder keeps its shards as long as its share allows. Lots drawn from the names
    decide which of them it gives up, and who gets a free one. An assignment that is carried out in part is computed the
    same way again, so members that look one after the other agree.
    """
    least, over = divmod(shards, len(members))
    owners = [""] * shards
    room = dict.fromkeys(members, least)

    def give(pairs: Iterable[tuple[int, str]]) -> None:
        nonlocal over
        for _, shard, member in sorted(((_weight(*pair), *pair) for pair in pairs), reverse=True):
            if owners[shard] or room[member] < (0 if over else 1):
                continue
            over -= room[member] == 0
            room[member] -= 1
            owners[shard] = member

    give((shard, holder) for shard, holder in holders.items() if holder in members)
    give((shard, member) for shard, owner in enumerate(owners) if not owner for member in members)
    return owners


def _weight(shard: int, member: str) -> bytes:
    return blake2b(f"{shard}/{member}".encode(), digest_size=8).digest()


@dataclass(slots=True)
class _Held:
    """A shard that is ours until another member's lease is seen."""

    revision: int | None
    """None where a write may or may not have been done."""
    era: object
    is_departing: bool = False
    """Whether it should be another's, and is kept only until it is released."""
    using: asyncio.Lock = field(default_factory=asyncio.Lock)


class LeaseMembership:
    """One member (`gateway.broker.ports.Membership`)."""

    def __init__(self, store: LeaseStore, shards: int, timing: LeaseTiming) -> None:
        self._store = store
        self._shards = shards
        self._timing = timing
        self._token = uuid4().hex
        self._held: dict[int, _Held] = {}
        self._is_leaving = False
        self._is_changed = True
        self._woken = asyncio.Event()
        self._generation: object = None
        self._seen: float | None = None  # when the members were last read
        self._announced = 0  # the revision of our own record
        self._renew_at = 0.0
        self._problem = ""
        self._take_from = 0.0
        self._members: set[str] = set()
        self._owners: list[str] = []  # of each shard, as they were dealt among those members
        self._reassign_at = 0.0
        self._seen_held: set[str] = set()  # leases that others had since this member could not read

    async def assignments(self) -> AsyncIterator[frozenset[int]]:
        """Yield the shards to serve; see the contract. Between two sets the leases are renewed."""
        while True:
            self._woken.clear()
            try:
                await self._tick()
            except (Unavailable, OutcomeUnknown) as error:
                if str(error) != self._problem:
                    log.warning("shard ownership unavailable: %s", error)
                self._problem = str(error)
            if self._is_changed and (self._seen is not None or self._is_leaving):
                self._is_changed = False
                yield frozenset(shard for shard, held in self._held.items() if not held.is_departing)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.look):
                    await self._woken.wait()

    async def is_owner(self, shard: int) -> bool:
        """Renew the lease of `shard`; see the contract."""
        held = self._held.get(shard)
        if held is None or held.is_departing:
            return False
        try:
            await self._renew(shard, held)
        except OutcomeUnknown as error:
            raise Unavailable(f"whose shard {shard} is cannot be told: {error}") from error
        return self._held.get(shard) is held

    async def release(self, shard: int) -> None:
        """Hand the lease of `shard` back; see the contract."""
        held = self._held.pop(shard, None)
        if held is None:
            return
        if not held.is_departing:  # given up unasked
            self._change()
        with suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(_LEAVE_TIMEOUT_S), held.using:
                await self._erase(f"lease.{shard}", held)

    async def leave(self) -> None:
        """Announce this member no longer; see the contract."""
        if self._is_leaving:
            return
        self._is_leaving = True
        for held in self._held.values():
            held.is_departing = True
        self._change()
        with suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                announced = await self._store.read(f"member.{self._token}")
                if announced is not None:
                    await self._store.erase(f"member.{self._token}", announced.revision)

    def _change(self) -> None:
        self._is_changed = True
        self._woken.set()

    async def _tick(self) -> None:
        """Announce this member, renew its leases, read the members, and take and give up shards accordingly."""
        now = asyncio.get_running_loop().time()
        era = self._store.generation
        if era is not self._generation or now >= self._renew_at:
            if not self._is_leaving:
                await self._announce()
            await _all(self._renew(shard, held) for shard, held in list(self._held.items()))
            self._renew_at = now + self._timing.renewal
        names = await self._store.names()
        self._saw(era, names)
        if self._is_leaving:
            return
        await self._reassign(names)
        free = []
        for shard, owner in enumerate(self._owners):
            is_ours = owner == self._token
            held = self._held.get(shard)
            if held is None and is_ours and f"lease.{shard}" not in names:
                free.append(shard)
            elif held is not None and not is_ours and not held.is_departing:
                held.is_departing = True
                self._change()
        is_sure = asyncio.get_running_loop().time() >= self._take_from
        await _all(self._take(shard) for shard in free if is_sure or f"lease.{shard}" in self._seen_held)

    async def _reassign(self, names: frozenset[str]) -> None:
        """Assign the shards again when a member joined or left, until every shard is where it was assigned.

        It repeats that once in a lease's length: another may have seen the members join and leave in another order, and
        wait for this one.
        """
        now = asyncio.get_running_loop().time()
        members = {self._token, *(name.removeprefix("member.") for name in names if name.startswith("member."))}
        ours = {shard for shard, owner in enumerate(self._owners) if owner == self._token}
        is_settled = ours == self._held.keys() and all(f"lease.{shard}" in names for shard in range(self._shards))
        if members == self._members and is_settled and now < self._reassign_at:
            return
        others = [shard for shard in range(self._shards) if shard not in self._held and f"lease.{shard}" in names]
        current = await _all(self._store.read(f"lease.{shard}") for shard in others)
        holders = {shard: lease.token for shard, lease in zip(others, current, strict=True) if lease is not None}
        self._owners = assign(self._shards, members, holders | dict.fromkeys(self._held, self._token))
        self._members, self._reassign_at = members, now + self._timing.lease

    async def _announce(self) -> None:
        name = f"member.{self._token}"
        try:
            self._announced = await self._store.write(name, self._token, self._announced)
        except Conflict:
            self._hold_off()
            self._announced = await self._store.write(name, self._token, None)

    def _saw(self, era: object, names: frozenset[str]) -> None:
        """Note that the members are known, unless the store has lost this member's record, and so perhaps every one."""
        now = asyncio.get_running_loop().time()
        is_gap = self._seen is not None and (era is not self._generation or now - self._seen > self._timing.lease / 2)
        is_forgotten = f"member.{self._token}" not in names and not self._is_leaving
        if is_gap or is_forgotten:
            self._hold_off()
        if is_forgotten:
            self._renew_at = now
        self._seen, self._generation, self._problem = now, era, ""
        self._seen_held |= names

    def _hold_off(self) -> None:
        """Take nothing new for as long as a lease lasts, but shards whose seen lease has ended.

        After an outage of the broker, or a jump of its clock, all records may have ended. The first member to look
        would see no other and take everything, while the others are about to take their own back.
        """
        self._take_from = asyncio.get_running_loop().time() + self._timing.lease
        self._seen_held.clear()

    async def _renew(self, shard: int, held: _Held) -> None:
        """Renew a lease, or take it back where it ended and no other member has it; else the shard is lost."""
        name = f"lease.{shard}"
        async with held.using:
            while self._held.get(shard) is held:
                era = self._store.generation
                if held.revision is None or held.era is not era:
                    current = await self._store.read(name)
                    if current is not None and current.token != self._token:
                        del self._held[shard]
                        self._change()
                        return
                    held.revision, held.era = (0 if current is None else current.revision), era
                expected, held.revision = held.revision, None
                try:
                    held.revision = await self._store.write(name, self._token, expected)
                except Conflict:
                    continue  # it ended, or another has it, or an earlier write of ours was done after all: look
                return

    async def _take(self, shard: int) -> None:
        era = self._store.generation
        try:
            revision = await self._store.write(f"lease.{shard}", self._token, 0)
        except Conflict:
            return  # another member was quicker, which sees other members
        self._held[shard] = _Held(revision, era, is_departing=self._is_leaving)
        self._change()

    async def _erase(self, name: str, held: _Held) -> None:
        if held.revision is None or held.era is not self._store.generation:
            current = await self._store.read(name)
            if current is None or current.token != self._token:
                return
            held.revision = current.revision
        await self._store.erase(name, held.revision)

    async def close(self) -> None:
        """Leave, and give all leases back."""
        await self.leave()
        await _all(self.release(shard) for shard in list(self._held))


async def _all(doing: Iterable[Awaitable[_T]]) -> list[_T]:
    """Do everything at once, to its end, and raise the first of what went wrong."""
    results = []
    for outcome in await asyncio.gather(*doing, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results


@asynccontextmanager
async def join(store: LeaseStore, shards: int, timing: LeaseTiming) -> AsyncIterator[LeaseMembership]:
    """Take part, and leave at the end; see `gateway.broker.ports.Ownership`."""
    membership = LeaseMembership(store, shards, timing)
    try:
        yield membership
    finally:
        await membership.close()
