"""Scenes that dice alone would not play: each is one in which the gateway once failed, in some worlds of replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial
from random import Random
from typing import TYPE_CHECKING, ClassVar, Final

from gateway.accounts import shard_of
from gateway.broker.memory.registry import MemoryRegistry
from gateway.broker.ports import Limits
from gateway.session.checkpoint import encode_checkpoint, reset_checkpoint
from gateway.state import ACCOUNT, Desired, Phase, TargetState, encode_record

if TYPE_CHECKING:
    from tests.simulation.replica_world import World

Events = list[tuple[float, Callable[[], None]]]
"""When each happens, in seconds, and what."""

_EACH: Final = 0.03
"""The part of the seeds in which each scene is played."""
_HAUNT: Final = f"{0xF0:032x}"
"""The id of the replay whose replica freezes."""
_TEXT: Final = "\N{GRINNING FACE}" * 100
"""A callback that nobody knows: few bytes in the payload, and many in the dead letter that tells of it."""


class SlowRegistry(MemoryRegistry):
    """A registry that takes its time to forget, as one does that every replica must hear of."""

    async def forget(self, accounts: Collection[str]) -> None:
        """See the contract."""
        await asyncio.sleep(1.0)
        await super().forget(accounts)


class Scene:
    """What is played in one world: how that is made, and what happens in it."""

    is_alone: ClassVar[bool] = False
    """Whether nothing else goes wrong, as that would spoil the scene."""

    def prepare(self, world: World, dice: Random) -> None:
        """Change what there is, before anything happens."""

    def events(self, world: World, dice: Random) -> Events:
        """Return what happens."""
        raise NotImplementedError


class Deleted(Scene):
    """An operator deletes accounts of one shard that have no key any more, all at once."""

    def prepare(self, world: World, dice: Random) -> None:
        """Draw their names."""
        shard, count, number = dice.randrange(world.shards), dice.randint(10, 40), 0
        while len(world.deleted) < count:
            if shard_of(f"gone-{number}", world.shards) == shard:
                world.deleted.append(f"gone-{number}")
            number += 1

    def events(self, world: World, dice: Random) -> Events:
        """Let them have been there, then delete them."""

        def were_there() -> None:
            for name in world.deleted:
                stored = world.broker.stored_checkpoints.setdefault(shard_of(name, world.shards), {})
                stored[name] = encode_checkpoint(reset_checkpoint(1, 0, None))
                world.registry.registered.add(name)

        def delete() -> None:
            world.note(f"{len(world.deleted)} accounts are deleted")
            desired = encode_record(Desired(state=TargetState.PAUSED, forget=True))
            for name in world.deleted:
                world.write(ACCOUNT + name, desired, 0)

        return [(0.0, were_there), (dice.uniform(5, 30), delete)]


class Flooded(Scene):
    """Nearly all accounts hold pushes behind one that was lost, as much as there is memory, and are dropped at once."""

    is_alone = True
    _ACCOUNTS = 26
    _WELL = 2
    _BURST = 15

    def prepare(self, world: World, dice: Random) -> None:  # noqa: ARG002 - as declared
        """Make memory short."""
        world.names, world.memory = [f"account-{number}" for number in range(self._ACCOUNTS)], 1024 * 1024
        world.window, world.most_replicas = 2.0, 1

    def events(self, world: World, dice: Random) -> Events:
        """Fill it."""
        at, dropped_after = dice.uniform(37, 39.5), dice.uniform(0.3, 1.5)  # nothing comes later that lets them go on
        names = dice.sample(world.names, self._ACCOUNTS - self._WELL)

        def fill() -> None:
            world.note("most accounts are flooded")
            for name in names:
                user = world.hub.users[name]
                user.emit(is_pushed=False)
                for _ in range(self._BURST):
                    user.emit(1_900)

        def drop() -> None:
            world.note("and dropped")
            for name in names:
                world.hub.users[name].drop()

        for name in names:
            world.excuse(name, at, at + dropped_after + 10, "flooded")
        return [(at, fill), (at + dropped_after, drop)]


class Haunted(Scene):
    """A replica freezes while it replays, and goes on when its heir has long finished."""

    def prepare(self, world: World, dice: Random) -> None:  # noqa: ARG002 - as declared
        """Let there be an heir, and let replays take their time."""
        world.least_replicas, world.replays_per_second = 2, 4.0

    def events(self, world: World, dice: Random) -> Events:
        """Ask for a replay, and freeze who carries it out."""
        name, at, seconds = dice.choice(world.names), dice.uniform(12, 25), dice.uniform(22, 32)

        def look() -> None:
            loop = asyncio.get_running_loop()
            for replica in [*world.replicas]:
                if _replays(world, replica):
                    for each in world.names:
                        world.excuse(each, loop.time(), loop.time() + seconds + world.takeover, "a zombie")
                    world.freeze(replica, seconds)
                    return
            if loop.time() < at + 15:
                loop.call_later(0.1, look)

        return [(at, partial(world.ask_for, _HAUNT, name)), (at + 0.5, look)]


def _replays(world: World, name: str) -> bool:
    """Return whether a replica is in the middle of the replay of this scene."""
    machine, replica = world.replicas[name]
    if machine.is_stopped:
        return False
    shards = [replica._shards.known[number] for number in replica._shards.serving]
    states = [state_of() for shard in shards for id_, state_of in shard.replays.states() if id_ == _HAUNT]
    return any(state.phase is Phase.RUNNING and state.published for state in states)


class Wordy(Scene):
    """Hundreds of short pushes come at once of which long dead letters must be made, and commits hold little."""

    def prepare(self, world: World, dice: Random) -> None:  # noqa: ARG002 - as declared
        """Let commits hold little, and accounts a lot."""
        world.limits, world.buffer = Limits(messages=2_000, bytes=900_000), 2 * 1024 * 1024
        world.is_window_open = True

    def events(self, world: World, dice: Random) -> Events:
        """Push them, over one account or two."""
        events: Events = []
        for name in dice.sample(world.names, min(len(world.names), dice.randint(1, 2))):
            at, count = dice.uniform(8, 35), dice.randint(800, 1_000)
            events.append((at, partial(world.hub.users[name].cry, _TEXT, count)))
        return events


SCENES: Final[tuple[Callable[[], Scene], ...]] = (Deleted, Flooded, Haunted, Wordy)


def scene_of(seed: int) -> tuple[Scene, Random] | None:
    """Return the scene that is played in a seed's world, with its dice; None for most."""
    dice = Random(f"{seed}/scene")
    which = int(dice.random() / _EACH)
    return (SCENES[which](), dice) if which < len(SCENES) else None
