"""Members of an ownership as a test sees them, and the behaviours that planted defects are held against, too."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from gateway.broker.ports import Membership, Ownership

log = logging.getLogger(__name__)

SHARDS = 16
TIMEOUT_S = 45.0
TAKEOVER = 10.0  # 2.8 to 3.4 s where nothing else runs
"""Seconds within which a member that died is replaced."""


@dataclass
class Member:
    """One member, which serves at once what it is given and stops at once what it is given no longer."""

    name: str
    membership: Membership
    group: Group
    serving: frozenset[int] = frozenset()
    sets: list[frozenset[int]] = field(default_factory=list)
    """Everything that it was given."""
    following: asyncio.Task[None] | None = None

    def thaw(self) -> None:
        """Follow the changes, from the beginning or again."""
        self.following = asyncio.create_task(self._follow())

    async def freeze(self) -> None:
        """Do nothing any more, not even renew a lease."""
        if self.following is not None:
            self.following.cancel()
            await asyncio.wait({self.following})
            self.following = None

    async def _follow(self) -> None:
        async for given in self.membership.assignments():
            stopped, self.serving = self.serving - given, given
            self.sets.append(given)
            self.group.note(self, given)
            for shard in stopped:
                await self.membership.release(shard)


@dataclass
class Group:
    """All members of one ownership."""

    ownership: Ownership
    stack: AsyncExitStack
    shards: int = SHARDS
    is_eager: bool = False
    """Whether a shard may be given to its next owner before this one has released it."""
    members: list[Member] = field(default_factory=list)
    overlaps: list[tuple[int, str, str]] = field(default_factory=list)
    """Shards that were given to one member while another one, which was awake, served them."""
    _contexts: dict[str, AsyncExitStack] = field(default_factory=dict)

    async def join(self, name: str) -> Member:
        """Let a member come."""
        context = self._contexts[name] = AsyncExitStack()
        membership = await context.enter_async_context(self.ownership.join(name, self.shards))
        self.stack.push_async_callback(context.aclose)
        member = Member(name, membership, self)
        self.stack.push_async_callback(member.freeze)
        self.members.append(member)
        member.thaw()
        return member

    async def part(self, member: Member) -> None:
        """Let a member go with a farewell, as a process does that is asked to end."""
        await member.membership.leave()
        await until(lambda: not member.serving and member.sets[-1] == frozenset(), f"{member.name} is given nothing")
        await member.freeze()
        await self._contexts[member.name].aclose()
        self.members.remove(member)

    async def kill(self, member: Member) -> None:
        """Let a member die without a farewell."""
        await member.freeze()
        self.members.remove(member)

    def note(self, member: Member, given: frozenset[int]) -> None:
        """Look for shards that two members serve."""
        for other in self.members if not self.is_eager else []:
            if other is not member and other.following is not None:
                self.overlaps += [(shard, member.name, other.name) for shard in given & other.serving]

    def owners(self) -> dict[int, list[str]]:
        """Return the members that serve each shard now."""
        return {shard: [one.name for one in self.members if shard in one.serving] for shard in range(self.shards)}

    def changes(self) -> int:
        """Count what all members were given so far."""
        return sum(len(member.sets) for member in self.members)

    def _is_shared(self) -> bool:
        return all(one.sets for one in self.members) and all(len(who) == 1 for who in self.owners().values())

    async def quiet(self) -> dict[int, str]:
        """Wait until each shard has exactly one owner and that stays so for a while; return the owners."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            await until(self._is_shared, "each shard has one owner", self)
            before = self.changes()
            await asyncio.sleep(1.2)  # two looks and more: what would change has changed
            if before == self.changes():
                return {shard: who[0] for shard, who in self.owners().items()}
            assert time.monotonic() < deadline, f"shards move for ever: {self.owners()}"


async def until(condition: Callable[[], bool], what: str, group: Group | None = None) -> None:
    """Wait until `condition` holds."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"it did not happen: {what}; {group and group.owners()}") from None


def moved(before: dict[int, str], after: dict[int, str]) -> set[int]:
    """Return the shards that have another owner now."""
    return {shard for shard in before if before[shard] != after[shard]}


def of(owners: dict[int, str], member: str) -> set[int]:
    """Return the shards of a member."""
    return {shard for shard, owner in owners.items() if owner == member}


async def shares_are_even_and_nothing_moves_but_what_must(group: Group) -> None:
    await group.join("a")
    alone = await group.quiet()
    await group.join("b")
    two = await group.quiet()
    third = await group.join("c")
    three = await group.quiet()
    await group.part(third)
    again = await group.quiet()

    assert set(alone.values()) == {"a"}
    assert moved(alone, two) == of(two, "b")
    for fewer in (two, again):
        assert moved(fewer, three) == of(three, "c")
    for owners, names in ((two, "ab"), (three, "abc"), (again, "ab")):
        shares = [len(of(owners, name)) for name in names]
        assert max(shares) - min(shares) <= 1
    assert group.overlaps == []


async def a_member_that_dies_is_replaced(group: Group) -> float:
    """Return the seconds that it took."""
    await group.join("a")
    dies = await group.join("b")
    before = await group.quiet()
    began = time.monotonic()
    await group.kill(dies)
    survivor = group.members[0]
    await until(lambda: len(survivor.serving) == group.shards, "the dead member is replaced", group)
    took = time.monotonic() - began
    log.info("a member that died was replaced after %.2f s", took)

    assert of(before, "b")
    assert took < TAKEOVER
    return took


async def a_frozen_member_loses_its_shards_and_learns_it(group: Group) -> None:
    heir = await group.join("a")
    frozen = await group.join("b")
    await group.quiet()
    await frozen.freeze()
    believed = frozen.serving
    await until(lambda: len(heir.serving) == group.shards, "the frozen member is replaced", group)
    (shard, *_) = believed
    assert not await frozen.membership.is_owner(shard)
    assert await heir.membership.is_owner(shard)
    count = len(heir.sets)
    frozen.thaw()
    await until(lambda: not frozen.serving, "it learns that it has lost them", group)

    after = await group.quiet()
    assert len(of(after, "b")) == group.shards // 2
    assert len(heir.sets) == count + 1  # its shards went back at once, by a handover
    assert group.overlaps == []


Behaviour = Callable[[Group], Awaitable[object]]
