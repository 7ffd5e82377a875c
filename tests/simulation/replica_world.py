"""Whole replicas on the memory broker and a fake hub, in virtual time: `python -m tests.simulation.replica_world 7`."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, cast

import structlog

from gateway.accounts import shard_of
from gateway.broker.control_view import View
from gateway.broker.leases import LeaseTiming
from gateway.broker.memory.control import MemoryControl
from gateway.broker.memory.faults import Edge
from gateway.broker.memory.log import MemoryBroker
from gateway.broker.memory.ownership import MemoryOwnership
from gateway.broker.ports import Limits
from gateway.errors import CommitRejected, OutcomeUnknown, Unavailable
from gateway.publication import DEAD_LETTER, NOTIFICATIONS
from gateway.publication import REPLAY as REPLAY_TOPIC
from gateway.replica.replica import Replica
from gateway.replica.sink.commit_window import MOST
from gateway.replica.source.account import AccountState
from gateway.session.checkpoint import CheckpointUnreadable, decode_checkpoint
from gateway.settings.model import Settings
from gateway.settings.sections import AccountsSettings, BrokerSettings, HubSettings, ReplaysSettings
from gateway.settings.sections import SessionSettings as Session
from gateway.state import REPLAY, Observed, Phase, Replay, encode_record
from tests.simulation.replica_hub import Bug, FakeHub, Trouble
from tests.simulation.replica_refusals import Refusing
from tests.simulation.replica_scenes import SlowRegistry, scene_of
from tests.simulation.virtual import Machine, simulate

FLOW: Final = 40.0
"""Seconds for which things happen, and go wrong."""
CALM: Final = 130.0
"""Seconds after that in which all must come to rest: an account that diverged looks again after 60 to 90 s."""
QUIET: Final = 8.0
"""Seconds at rest after which nothing can be under way: an audit with its grace, a lease, and reports of both."""
_WATCH: Final = 5.0
"""Seconds for which each replica is looked at in the end."""
_PATIENT: Final = 0.05
"""The part of the seeds in which the whole calm is lived through, although all is at rest."""
GRACE: Final = 4.0
AUDIT: Final = 5.0
LEASE: Final = LeaseTiming(lease=6.0, renewal=2.0, look=1.0)
TAKEOVER: Final = 15.0
"""Seconds in which another replica has what one held that died, its lease included."""

_CROWDS: Final = 0.05
"""The part of the seeds in which nearly all accounts of one replica have the same trouble."""
_CROWD: Final = 40
"""Accounts then: their pages together are expected to take several times the memory that there is."""

_POWERLESS: Final = 0.15
"""The part of the seeds in which the broker loses commits that it had acknowledged."""
_REFUSED: Final = 0.15
"""The part of the seeds in which the broker refuses commits with codes of real ones."""
_BUGGY: Final = 0.3
"""The part of the seeds in which the gateway itself has a fault."""

_REPLAYING: Final = 0.4
"""The part of the seeds in which something is replayed."""
_HUNG: Final = 0.05
"""The part of the others in which half of the shards hang for long, as where a broker's partitions have no leader."""

_IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
"""Where the key files are, if there is such a place: to make them on a disk takes a hundredth of a world's time."""
_MODULE: Final = "tests.simulation.replica_world"

ShardTrouble = Literal["hangs", "refuses", "unknown", "away"]


@dataclass(slots=True)
class Excuse:
    """Why an account may stand still for a while."""

    since: float
    until: float
    why: str


@dataclass(frozen=True, slots=True)
class Rest:
    """How a replica stands when all trouble is long over."""

    states: dict[str, str]
    """By account."""
    held: int
    reserved: int
    stuck: int
    waiting: int
    """Pages that wait for room."""

    def least(self, before: Rest | None) -> Rest:
        """Return the least of each number: a page may be under way at any moment."""
        if before is None:
            return self
        return Rest(
            self.states,
            min(self.held, before.held),
            min(self.reserved, before.reserved),
            min(self.stuck, before.stuck),
            min(self.waiting, before.waiting),
        )


def member_of(replica: str) -> str:
    """Return the name under which a replica reports."""
    return replica.replace("replica-", "host/")


def _rest_of(replica: Replica) -> Rest:
    budget = replica._source.budget
    return Rest({}, budget.held, budget.reserved, budget.blocked_on_history, len(budget._waiting))


@dataclass
class World:
    """One seed's world, and what came of it."""

    seed: int
    calm: bool = False
    """Whether nothing goes wrong."""
    certain: str = ""
    """A fault that is dealt in any case, where there can be one: `power` or `refusals`."""
    hub: FakeHub = field(init=False)
    broker: MemoryBroker = field(init=False)
    excuses: dict[str, list[Excuse]] = field(init=False)
    """By account."""
    replicas: dict[str, tuple[Machine, Replica]] = field(default_factory=dict)
    """Those that are there, by name."""
    dead: list[Machine] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """Processes that ended though nobody asked them to."""
    story: list[str] = field(default_factory=list)
    """What was done to it."""
    replays: dict[str, Replay] = field(default_factory=dict)
    """As operators asked for them last, by id."""
    phases: dict[str, set[Phase]] = field(default_factory=dict)
    """What each replica at the end knows of each, and who listens only then."""
    shown: dict[str, dict[str, Observed | None]] = field(default_factory=dict)
    """What each of them knows of each account, by who that is and by account."""
    deleted: list[str] = field(default_factory=list)
    """Accounts without a key that operators delete."""
    at_rest: dict[str, Rest] = field(default_factory=dict)
    """Of each replica, at the end."""
    connections: dict[str, int] = field(default_factory=dict)
    """Of each account at the hub, at the end."""
    events: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    """That happen besides those of the seed: when, in seconds, and what."""
    is_over: bool = False
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Of the log, from ERROR on."""

    def __post_init__(self) -> None:
        """Draw what there is."""
        self.dice = Random(f"{self.seed}/world")
        dice = self.dice
        self.shards = dice.choice((1, 2, 4))
        self.names = [f"account-{number}" for number in range(dice.randint(2, 12))]
        self.memory = dice.choice((16, 16, 64)) * 1024 * 1024
        crowd = Random(f"{self.seed}/crowd")
        self.crowd = crowd if crowd.random() < _CROWDS else None
        if self.crowd is not None:
            self.names, self.memory = [f"account-{number}" for number in range(_CROWD)], 16 * 1024 * 1024
        self.is_hung = self.crowd is None and crowd.random() < _HUNG
        if self.is_hung:
            self.names, self.shards = [f"account-{number}" for number in range(24)], 16
        self.limits = Limits(messages=200, bytes=2**20)
        self.lost = 0
        """Commits that the broker lost."""
        self.is_window_open = Random(f"{self.seed}/window").random() < 0.5
        """Whether much may be committed at once from the beginning, as by replicas that have run for long."""
        self.buffer = 64 * 1024
        self.window = 0.05
        """Seconds for which a push waits for what is missing before it."""
        self.least_replicas, self.most_replicas = 1, 3
        self.replays_per_second = 1000.0
        self.takeover = TAKEOVER
        self.scene = None if self.crowd is not None or self.is_hung else scene_of(self.seed)
        if self.scene is not None:
            self.scene[0].prepare(self, self.scene[1])
        self.hub = FakeHub(self.names)
        self.excuses = {name: [] for name in self.names}
        self.shard_troubles: dict[int, ShardTrouble] = {}
        self.shard_bugs: dict[int, Bug] = {}
        self.shard_refusals: dict[int, Refusing] = {}
        self._rejecting: set[int] = set()
        """Shards that have a trouble in which single messages are refused."""
        self._writing: list[asyncio.Task[int]] = []
        self.keys = Path(tempfile.mkdtemp(prefix="keys-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None))
        self.count = 0
        self.busy_until = FLOW
        """When the last of what is to happen has happened."""
        self._looked = 0
        self._keys: dict[str, set[bytes]] = {name: set() for name in self.names}

    async def run(self) -> None:
        """Let it all happen."""
        loop = asyncio.get_running_loop()
        self.broker = MemoryBroker(limits=self.limits, faults=self._strike, clock=loop.time)
        self.registry = SlowRegistry()
        self.ownership = MemoryOwnership(LEASE)
        self.control = MemoryControl()
        for name in self.names:
            (self.keys / name).write_bytes(b"key-of-%b" % name.encode())
        replicas = self.dice.choice((1, 1, 2, 3)) if self.crowd is None else 1
        for _ in range(min(self.most_replicas, max(self.least_replicas, replicas))):
            self.start()
        weather = self._weather if self.crowd is None else lambda: self._crowded(self.crowd)
        events = self._flow() + ([] if self.calm else weather()) + self.events
        events.sort(key=lambda event: event[0])
        for at, act in events:
            if at > loop.time():
                await asyncio.sleep(at - loop.time())
            act()
        await self._until_at_rest()
        ends = loop.time() + _WATCH
        while loop.time() < ends:
            for name, (_, replica) in self.replicas.items():
                self.at_rest[name] = _rest_of(replica).least(self.at_rest.get(name))
            await asyncio.sleep(0.1)
        for name, rest in self.at_rest.items():
            states = {status.account: status.state.value for status in self.replicas[name][1].statuses()}
            self.at_rest[name] = replace(rest, states=states)
        self.connections = {name: len(user.connections) for name, user in self.hub.users.items()}
        views = {"a new listener": await self._view()}
        views |= {name: replica.view for name, (_, replica) in self.replicas.items()}
        self.phases = {id_: {view.phase(id_) for view in views.values()} for id_ in self.replays}
        for who, view in views.items():
            sightings = {name: view.observed.get(name) for name in self.names}
            self.shown[who] = {name: None if seen is None else seen.value for name, seen in sightings.items()}
        self.is_over = True

    async def _view(self) -> View:
        """Return what somebody knows who listens only now."""
        view = View(lambda _: None)
        following = asyncio.create_task(view.follow(self.control))
        await view.has_synced.wait()
        following.cancel()
        return view

    async def _until_at_rest(self) -> None:
        """Wait until all has been at rest for so long that it will stay so; at the latest until the end."""
        loop = asyncio.get_running_loop()
        is_patient = Random(f"{self.seed}/patience").random() < _PATIENT
        since = loop.time()
        while loop.time() < FLOW + CALM - _WATCH and (is_patient or loop.time() < since + QUIET):
            await asyncio.sleep(0.5)
            if not is_patient and not self._is_at_rest():
                since = loop.time()

    def _is_at_rest(self) -> bool:
        """Return whether nothing is outstanding: no trouble, no event, no replay, no byte, and each account is live."""
        if asyncio.get_running_loop().time() < self.busy_until:
            return False
        live = dict.fromkeys(self.names, 0)
        for machine, replica in self.replicas.values():
            budget = replica._source.budget
            if machine.is_stopped or budget.blocked_on_history or budget._waiting:
                return False
            for account in replica._shards.accounts.values():
                if account.state is AccountState.LIVE:
                    live[account.name] += 1
            jobs = (job for shard in replica._shards.known.values() for job in shard.replays._jobs.values())
            if not all(job.is_over for job in jobs):  # one may go on that a view takes for ended: its end was lost
                return False
        if not self.registry.registered.isdisjoint(self.deleted):
            return False
        if set(live.values()) != {1} or any(len(user.connections) != 1 for user in self.hub.users.values()):
            return False
        phases = (replica.view.phase(id_) for id_ in self.replays for _, replica in self.replicas.values())
        return all(phase.is_final for phase in phases) and self._is_stored()

    def _is_stored(self) -> bool:
        """Return whether every event is in the log."""
        entries = self.broker.entries
        for entry in entries[self._looked :]:
            message = entry.stored.message
            if message.topic not in {NOTIFICATIONS, DEAD_LETTER, REPLAY_TOPIC}:
                self._keys[message.account].add(message.key)
        self._looked = len(entries)
        return all(len(self._keys[name]) >= len(user.happenings) for name, user in self.hub.users.items())

    # Replicas -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start one replica more."""
        self.count += 1
        name = f"replica-{self.count}"
        machine = Machine(name)
        machine.start(self._process(name, machine))

    async def _process(self, name: str, machine: Machine) -> None:
        try:
            replica = self._replica(name)
            self.replicas[name] = machine, replica
            await replica.run()
        except BaseException as error:
            if self.is_over:
                raise
            self.ended.append(f"{name} ended: {error!r}")
        else:
            if name in self.replicas:
                self.ended.append(f"{name} ended, unasked")

    @cached_property
    def _settings(self) -> Settings:
        return Settings(
            hub=HubSettings(url="http://hub", max_concurrent_connects=4, connects_per_second=20),
            accounts=AccountsSettings(directory=self.keys),
            session=Session(
                history_grace=GRACE, audit_interval=AUDIT, buffer_bytes=self.buffer, reorder_window=self.window
            ),
            broker=BrokerSettings(max_in_flight_commits=2),
            shards=self.shards,
            replays=ReplaysSettings(events_per_second=self.replays_per_second),
        ).model_copy(update={"memory_bytes": self.memory})  # less than a person may set, too

    def _replica(self, name: str) -> Replica:
        replica = Replica(
            self._settings,
            self.broker.log(name),
            self.registry,
            cast("Any", None),
            ownership=self.ownership,
            control=self.control,
            member=member_of(name),
            connect=self.hub.connector(),
        )
        if self.is_window_open:
            replica._shard_settings.commits.window.size = MOST
        return replica

    def _kill(self, name: str) -> None:
        machine, _ = self.replicas.pop(name)
        self.dead.append(machine)
        machine.die()
        for user in self.hub.users.values():  # its sockets go with it
            user.drop(machine)

    def freeze(self, name: str, seconds: float) -> None:
        """Let a replica stand still for a while, and go on as if nothing had been."""
        loop, machine = asyncio.get_running_loop(), self.replicas[name][0]
        self.note(f"{name} freezes for {seconds:.1f} s")
        self.busy_until = max(self.busy_until, loop.time() + seconds)
        machine.freeze()
        loop.call_later(seconds, machine.wake)

    def _stop(self, name: str) -> None:
        self.replicas.pop(name)[1].stop()

    # What happens ---------------------------------------------------------------------------------------

    def _flow(self) -> list[tuple[float, Callable[[], None]]]:
        dice, events = self.dice, []
        for user in self.hub.users.values():
            at, rate = dice.uniform(0, 3), dice.choice((0.2, 0.5, 1.0))
            while at < FLOW:
                events.append((at, lambda user=user: user.emit()))
                at += dice.expovariate(rate)
            if dice.random() < 0.2:  # a burst of large ones
                at = dice.uniform(0, FLOW)
                size = dice.choice((1_000, 5_000))
                events += [(at, lambda user=user, size=size: user.emit(size)) for _ in range(20)]
        return events

    def _weather(self) -> list[tuple[float, Callable[[], None]]]:
        """Draw what goes wrong: for some accounts, some shards, some replicas."""
        scene = [] if self.scene is None else self.scene[0].events(self, self.scene[1])
        if self.scene is not None and self.scene[0].is_alone:
            return scene
        dice = self.dice
        events: list[tuple[float, Callable[[], None]]] = []
        epidemic = (dice.choice(list(_TROUBLES)), dice.uniform(1, 10), dice.uniform(20, 30))
        is_epidemic = dice.random() < 0.25
        for name in dice.sample(self.names, dice.randint(0, len(self.names) - 1)):
            kind, since, seconds = dice.choice(list(_TROUBLES)), dice.uniform(0, FLOW - 5), dice.uniform(5, 30)
            if is_epidemic and dice.random() < 0.9:
                kind, since, seconds = epidemic
            until = min(FLOW, since + seconds)
            # What it leaves behind: backoffs of half a minute, or of a minute and a half where it diverged.
            self.excuse(name, since, until + (CALM - 10), kind)
            events += [(since, lambda name=name, kind=kind: self._trouble(name, kind))]
            events += [(until, lambda name=name: self._trouble(name, None))]
            events += [(since + 0.1, lambda name=name: self.hub.users[name].drop())] if dice.random() < 0.5 else []
        for name in self.names:
            if dice.random() < 0.3:
                at = dice.uniform(1, FLOW)
                self.excuse(name, at, at + 2, "dropped")
                events.append((at, lambda name=name: self.hub.users[name].drop()))
        for shard in range(self.shards - 1):
            if dice.random() < 0.3:
                events += self._shard_weather(shard)
        for shard in range(self.shards // 2 if self.is_hung else 0):
            events += self._shard_trouble(shard, "hangs", 5, FLOW - 5)
        for _ in range(dice.choice((0, 0, 1, 2))):
            events += self._replica_weather()
        return events + self._bugs() + self._replays() + self._power_cuts() + self._refusals() + scene

    def _is_dealt(self, fault: str, dice: Random, part: float) -> bool:
        """Draw whether there is a fault that a part of the seeds has."""
        return (dice.random() < part or self.certain == fault) and self.crowd is None

    def _refusals(self) -> list[tuple[float, Callable[[], None]]]:
        """Draw when the broker refuses sound commits, of some shards or of all."""
        dice = Random(f"{self.seed}/refusals")
        if not self._is_dealt("refusals", dice, _REFUSED):
            return []
        events: list[tuple[float, Callable[[], None]]] = []
        for shard in dice.sample(range(self.shards), dice.choice((1, self.shards))):
            refusing, since = Refusing(Random(f"{self.seed}/refusals/{shard}")), dice.uniform(2, FLOW - 5)
            if refusing.is_about_one and shard in self._rejecting:
                continue  # twice for 9 s is rightly taken for long
            for name in self.names:
                if shard_of(name, self.shards) == shard:
                    self.excuse(name, since, since + refusing.seconds + 30, f"shard {refusing}")
            events.append((since, partial(self._refuse, shard, refusing)))
        return events

    def _refuse(self, shard: int, refusing: Refusing) -> None:
        loop = asyncio.get_running_loop()
        self.note(f"shard {shard} {refusing} for {refusing.seconds:.1f} s")
        self.busy_until = max(self.busy_until, loop.time() + refusing.seconds)
        self.shard_refusals[shard] = refusing
        loop.call_later(refusing.seconds, self.shard_refusals.pop, shard)

    def _power_cuts(self) -> list[tuple[float, Callable[[], None]]]:
        """Draw when the broker loses its end, as in a power cut; where nobody writes, a shard looks each 10 s."""
        dice = Random(f"{self.seed}/power")
        if not self._is_dealt("power", dice, _POWERLESS):
            return []
        self.broker.can_lose = 50
        events: list[tuple[float, Callable[[], None]]] = []
        for _ in range(dice.randint(1, 2)):
            at, commits = dice.uniform(10, FLOW), dice.randint(1, 50)
            for name in self.names:
                self.excuse(name, at - 25, at + 30, "the broker went back")
            events.append((at, partial(self._lose, commits)))
        return events

    def _lose(self, commits: int) -> None:
        """Lose commits, as far as each account's first one stays, and that which told whose history it is."""
        lost = 0
        while lost < commits and (both := self.broker.before_last()) is not None:
            before, after = both
            can_be = before.keys() == after.keys()
            if not can_be or not all(self._can_lose(name, before[name], after[name]) for name in after):
                break
            self.broker.go_back(1)
            lost += 1
        self.note(f"the broker loses its last {lost} commits")
        self.lost += lost

    def _can_lose(self, name: str, before: bytes, after: bytes) -> bool:
        """Return whether an account's later checkpoint can be lost, so that it is still known whose history is its own.

        Where that is gone, or nothing but the lost events told it while the hub shows another's, nobody could know.
        """
        try:
            then, now = decode_checkpoint(before), decode_checkpoint(after)
        except CheckpointUnreadable:
            return True  # of a replay
        is_another = name in self.hub.users and self.hub.users[name].trouble.is_another
        return then.anchor is not None or (now.anchor is None and (before == after or not is_another))

    def _replays(self) -> list[tuple[float, Callable[[], None]]]:
        """Draw what operators ask for again, and perhaps cancel."""
        dice = Random(f"{self.seed}/replays")  # likewise
        if dice.random() >= _REPLAYING:
            return []
        events: list[tuple[float, Callable[[], None]]] = []
        for number in range(dice.randint(1, 3)):
            id_, name, at = f"{number:032x}", dice.choice(self.names), dice.uniform(5, FLOW)
            events.append((at, partial(self.ask_for, id_, name)))
            if dice.random() < 0.3:
                events.append((at + dice.uniform(0, 10), partial(self.ask_for, id_, name, is_cancelled=True)))
        return events

    def ask_for(self, id_: str, name: str, *, is_cancelled: bool = False) -> None:
        """Let an operator ask for a replay of all that an account has now, or cancel it."""
        stored = self.control.records.get((False, REPLAY + id_))
        until = len(self.hub.users[name].happenings)
        if is_cancelled and id_ in self.replays:
            until = self.replays[id_].until
        elif is_cancelled or until == 0:
            return
        self.note(f"a replay of {name} up to {until}: {'cancelled' if is_cancelled else 'asked for'}")
        wanted = self.replays[id_] = Replay(
            account=name, until=until, requested_at="", requested_by="", cancel_requested=is_cancelled
        )
        self.write(REPLAY + id_, encode_record(wanted), stored[0].revision if stored else 0)

    def write(self, key: str, value: bytes, revision: int) -> None:
        """Let an operator want something."""
        writing = self.control.write(key, value, revision)
        self._writing.append(asyncio.get_running_loop().create_task(writing))

    def _bugs(self) -> list[tuple[float, Callable[[], None]]]:
        """Draw where the gateway has a fault that strikes one account, or one shard, for a while."""
        dice = Random(f"{self.seed}/bugs")  # apart, so that the other draws of a seed stay what they were
        if dice.random() >= _BUGGY:
            return []
        since = dice.uniform(0, FLOW - 10)
        until = since + dice.uniform(3, 10)
        bug = Bug(Random(f"{self.seed}/bug"), chance=dice.choice((0.02, 0.1, 0.5)))
        if dice.random() < 0.5 or self.shards == 1:
            return self.plant(bug, since, until, account=dice.choice(self.names))
        return self.plant(bug, since, until, shard=dice.randrange(self.shards - 1))

    def plant(
        self, bug: Bug, since: float, until: float, *, account: str | None = None, shard: int | None = None
    ) -> list[tuple[float, Callable[[], None]]]:
        """Return what begins and ends a bug; those whom it strikes are excused until they have rested."""
        for name in self.names:
            if account == name or (account is None and shard_of(name, self.shards) == shard):
                self.excuse(name, since, until + CALM - 30, f"a bug of {account or shard}")

        def set_to(now: Bug | None) -> None:
            self.note(f"a bug of {account or f'shard {shard}'}: {'begins' if now else 'ends'}")
            if account is not None:
                self.hub.users[account].bug = now
            elif shard is not None and now is not None:
                self.shard_bugs[shard] = now
            else:
                self.shard_bugs.clear()

        return [(since, lambda: set_to(bug)), (until, lambda: set_to(None))]

    def _crowded(self, dice: Random) -> list[tuple[float, Callable[[], None]]]:
        """Draw one trouble that nearly all accounts of one replica have, while the others must page."""
        kind = dice.choice(("history fails", "hangs", "rate limited", "slow"))
        well, since = dice.sample(self.names, 2), dice.uniform(4, 7)
        events: list[tuple[float, Callable[[], None]]] = []
        for name in self.names:
            if name in well:
                for at in (dice.uniform(10, 20), dice.uniform(20, 35)):
                    self.excuse(name, at, at + 2, "dropped")
                    events.append((at, lambda name=name: self.hub.users[name].drop()))
                continue
            self.excuse(name, since, FLOW + CALM - 10, kind)
            events.append((since, lambda name=name: self._trouble(name, kind)))
            events.append((since, lambda name=name: self.hub.users[name].drop()))  # all page anew, at once
            events.append((FLOW, lambda name=name: self._trouble(name, None)))
        return events

    def _shard_weather(self, shard: int) -> list[tuple[float, Callable[[], None]]]:
        dice = self.dice
        kinds: list[ShardTrouble] = ["hangs", "refuses", "unknown", "away"]
        kind, since = dice.choice(kinds), dice.uniform(0, FLOW - 10)
        return self._shard_trouble(shard, kind, since, since + dice.uniform(3, 10))

    def _shard_trouble(
        self, shard: int, kind: ShardTrouble, since: float, until: float
    ) -> list[tuple[float, Callable[[], None]]]:
        if kind == "refuses":
            self._rejecting.add(shard)
        for name in self.names:
            if shard_of(name, self.shards) == shard:
                self.excuse(name, since, until + 30, f"shard {kind}")

        def begin() -> None:
            self.note(f"shard {shard} {kind}")
            self.shard_troubles[shard] = kind

        def end() -> None:
            self.shard_troubles.pop(shard, None)

        return [(since, begin), (until, end)]

    def _replica_weather(self) -> list[tuple[float, Callable[[], None]]]:
        dice = self.dice
        at, kind = dice.uniform(2, FLOW), dice.choice(("kill", "stop", "freeze", "join"))
        seconds = dice.uniform(0.5, 15)
        for name in self.names:
            self.excuse(name, at, at + seconds + TAKEOVER, f"a replica: {kind}")

        def act() -> None:
            running = [name for name, (machine, _) in self.replicas.items() if not machine.is_stopped]
            if kind == "join" or not running:
                self.note("a replica joins")
                self.start()
                return
            name = dice.choice(running)
            self.note(f"{name}: {kind} for {seconds:.1f} s")
            loop = asyncio.get_running_loop()
            self.busy_until = max(self.busy_until, loop.time() + seconds)
            match kind:
                case "kill":
                    self._kill(name)
                    loop.call_later(seconds, self.start)
                case "stop":
                    self._stop(name)
                    loop.call_later(seconds, self.start)
                case "freeze":
                    self.freeze(name, seconds)

        return [(at, act)]

    def _trouble(self, name: str, kind: str | None) -> None:
        user = self.hub.users[name]
        if kind == "diverges" and not self._has_begun(name):
            return  # whose history it is, nobody can tell yet
        self.note(f"{name}: {kind or 'well again'}")
        user.trouble = Trouble() if kind is None else _TROUBLES[kind]()
        if kind in {"diverges", "refuses", "away"}:
            user.drop()

    def _has_begun(self, name: str) -> bool:
        before = asyncio.get_running_loop().time() - 2 * GRACE
        return any(entry.stored.message.account == name and entry.at < before for entry in self.broker.entries)

    def excuse(self, name: str, since: float, until: float, why: str) -> None:
        """Let an account stand still for a while."""
        self.excuses[name].append(Excuse(since, until, why))

    def note(self, what: str) -> None:
        """Note what was done to the world."""
        self.story.append(f"{asyncio.get_running_loop().time():8.3f} {what}")

    async def _strike(self, edge: Edge) -> None:
        """Inject what is wrong with a shard, at the edges of the memory broker."""
        await asyncio.sleep(0.002)
        if edge.shard in self.shard_bugs:
            self.shard_bugs[edge.shard].cross(f"{edge.call}, {edge.when}")
        if edge.shard in self.shard_refusals:
            self.shard_refusals[edge.shard].strike(edge)
        kind = None if edge.shard is None else self.shard_troubles.get(edge.shard)
        if kind is None:
            return
        if kind == "away" and edge.when == "before":
            raise Unavailable("the partition is away")
        if edge.call != "commit":
            return
        if kind == "hangs" and edge.when == "before":
            await asyncio.sleep(10)
            if self.dice.random() < 0.5:
                edge.land()
            raise OutcomeUnknown("no answer within 10 s")
        if kind == "refuses" and edge.when == "before":
            raise CommitRejected("refused")
        if kind == "unknown" and self.dice.random() < 0.7:
            raise OutcomeUnknown("the answer is lost")


_TROUBLES: Final[dict[str, Callable[[], Trouble]]] = {
    "history fails": lambda: Trouble(history_fails=True),
    "hangs": lambda: Trouble(hangs=True),
    "slow": lambda: Trouble(slow=2.5),
    "rate limited": lambda: Trouble(rate_limited=True),
    "refuses": lambda: Trouble(refuses=True),
    "away": lambda: Trouble(away=True),
    "diverges": lambda: Trouble(is_another=True),
    "unpushed": lambda: Trouble(unpushed=True),
}


def lived(
    seed: int, *, calm: bool = False, certain: str = "", change: Callable[[World], None] = lambda _: None
) -> World:
    """Return the world of a seed after all that happened in it; `change` may plant something first."""
    world = World(seed, calm=calm, certain=certain)

    def keep(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        if not world.is_over:  # what is left is closed then
            world.lines.append(event)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(40))
    change(world)
    try:
        simulate(seed, world.run)
    finally:
        structlog.configure(**before)
        shutil.rmtree(world.keys, ignore_errors=True)
    return world


def repeat(seed: int, certain: str = "") -> str:
    """Return how a person repeats a seed."""
    more = f" 1 1 {certain}" if certain else ""
    return f"repeat it: PYTHONHASHSEED={os.environ.get('PYTHONHASHSEED')} python -m {_MODULE} {seed}{more}"


def judged(seed: int, *, certain: str = "", is_whole: bool = False) -> str:
    """Return what is wrong with a seed, and its story; nothing where nothing is. `is_whole` wants it anyway."""
    from tests.simulation.replica_verdict import violations  # noqa: PLC0415 - it judges what is here

    world = lived(seed, certain=certain)
    found = violations(world)
    if not found and not is_whole:
        return ""
    lines = [*world.story, *map(str, world.lines if is_whole else []), *found[:20]]
    return "\n  ".join([f"seed {seed}: {len(found)} violations; {repeat(seed, certain)}", *lines])


def main(arguments: list[str]) -> int:
    """Run seeds, and print what is wrong with each and how to repeat it.

    The arguments are the first seed, how many there are (1), how many processes run them (one each processor), and a
    fault that is to be in every world, as `World.certain` has it.
    """
    if "PYTHONHASHSEED" not in os.environ:  # the order of sets is part of what is repeated
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606
    first, count = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 1
    certain = arguments[3] if len(arguments) > 3 else ""
    if certain not in {"", "power", "refusals"}:
        raise SystemExit(f"there is no fault {certain}: it is power or refusals")
    if count == 1:
        report = judged(first, certain=certain, is_whole=True)
        sys.stdout.write(f"{report}\n")
        return int(": 0 violations" not in report)
    wrong = 0
    with ProcessPoolExecutor(int(arguments[2]) if len(arguments) > 2 else os.cpu_count()) as workers:
        for report in workers.map(
            partial(judged, certain=certain), range(first, first + count), chunksize=max(1, min(50, count // 8))
        ):
            wrong += bool(report)
            sys.stdout.write(f"{report}\n" if report else "")
            sys.stdout.flush()
    sys.stdout.write(f"{wrong} of {count} seeds are wrong\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
