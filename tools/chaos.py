"""Three replicas under a seeded schedule of blows, on either broker: what is struck, when, and what it cost.

A blow lands only while events of its victim are in flight. After each blow, all that the hub had by then must get
into the log before the next one comes. `make chaos` runs it for as long as one likes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, Literal

from tests.support import kafka_server, leftovers
from tests.support.checker import Verdict
from tests.support.fault_injection import silences
from tests.support.gateway_process import House, Process, house, settled_of, until
from tests.support.kafka_cluster import Place, made
from tests.support.kafka_server import KafkaServer
from tests.support.slow_line import FAST

log = logging.getLogger(__name__)

Kind = Literal[
    "kill", "end", "freeze", "nap", "cut", "broker", "hub", "slow", "hang", "back", "edit", "to 1", "to 4", "to 3"
]
ACCOUNTS: Final = 60
RATE: Final = 3.0
"""Events a second of each account."""
REPLICAS: Final = 3
SECONDS: Final[dict[Kind, tuple[float, float]]] = {
    "kill": (0, 3),  # until another is started in its place
    "end": (0, 1),  # likewise
    "freeze": (7, 10),  # longer than the leases of both brokers
    "nap": (0.3, 2),  # shorter
    "cut": (7, 10),  # from the broker alone
    "broker": (0, 4),  # until it is started again
    "hub": (0, 3),  # refuses connections at TCP, and drops those that stand
    "slow": (4, 8),  # the line to the broker
    "hang": (3, 8),  # the broker's address takes connections, and not a byte goes over them
    "back": (0.5, 2),  # what the broker has stored in this time is lost, as in a power cut
    "edit": (2, 5),  # a setting is changed without which nothing can be stored, and put back
    "to 1": (0, 0),
    "to 4": (0, 0),
    "to 3": (0, 0),
}
"""How long each kind of blow lasts."""
ROUND: Final = len(SECONDS)
SLOW: Final = 30_000.0
"""Bytes a second of a line that is slow."""
EXPECTED_ERRORS: Final[dict[Kind, tuple[str, ...]]] = {
    "back": ("went back", "lost its end"),
    "edit": ("Mend it", "does not meet the requirements"),
}
"""What gateways say as an error of some blows, and must."""


@dataclass(frozen=True)
class Blow:
    """One fault, and the peace before it."""

    kind: Kind
    seconds: float
    lot: float
    """Who of those that are there, from 0 to 1."""
    peace: float

    def __str__(self) -> str:
        """Say it in a few words."""
        return f"{self.kind} for {self.seconds:.1f} s" if self.seconds else self.kind


def schedule(seed: int) -> Iterator[Blow]:
    """Yield blows without an end, each kind once a round; the scales come one after the other."""
    dice = Random(seed)
    while True:
        alone: list[Kind] = ["kill", "end", "freeze", "nap", "cut", "broker", "hub", "slow", "hang", "back", "edit"]
        parts: list[list[Kind]] = [[kind] for kind in alone]
        parts.append(["to 1", "to 4", "to 3"])
        dice.shuffle(parts)
        for kind in itertools.chain.from_iterable(parts):
            yield Blow(kind, dice.uniform(*SECONDS[kind]), dice.random(), dice.uniform(0, 1))


@dataclass
class Storm:
    """Strikes one scene."""

    scene: House | Place
    alive: list[Process] = field(default_factory=list)
    spans: list[tuple[Kind, float, float]] = field(default_factory=list)
    """Each blow, and from when to when it was felt."""

    async def begin(self, rate: float = RATE) -> None:
        """Start the replicas and the flow, in events a second of each account."""
        await self.scale(REPLICAS)
        for account in self.scene.accounts:
            await self.scene.ask(f"POST /users/{account}/emit", rate=rate)
        await self._recovered()

    async def strike(self, blow: Blow) -> None:
        """Let one blow land, and wait until it is over."""
        await asyncio.sleep(blow.peace)
        victim = self.alive[int(blow.lot * len(self.alive))]
        await until(lambda: self._in_flight(victim, blow.kind) > 0, lambda: self._nothing(victim, blow))
        events, began = self._in_flight(victim, blow.kind), time.time()
        if blow.kind in {"kill", "end", "freeze", "nap", "cut"}:
            await self._strike_replica(blow, victim)
        elif blow.kind in {"to 1", "to 4", "to 3"}:
            await self.scale(int(blow.kind.split()[1]))
        else:
            await self._strike_all(blow)
        await self._recovered()
        ended = time.time()
        self.spans.append((blow.kind, began, ended))
        log.info("%s (%s), with %d events in flight: felt for %.1f s", blow, victim.name, events, ended - began)

    async def _strike_replica(self, blow: Blow, victim: Process) -> None:
        match blow.kind:
            case "kill":
                victim.kill()
                self.alive.remove(victim)
                await asyncio.sleep(blow.seconds)
                await self.scale(len(self.alive) + 1)
            case "end":
                await self._end(victim)
                await asyncio.sleep(blow.seconds)
                await self.scale(len(self.alive) + 1)
            case "cut":
                self.scene.sever(victim.popen.pid)
                await asyncio.sleep(blow.seconds)
                self.scene.mend()
            case _:
                victim.freeze()
                await asyncio.sleep(blow.seconds)
                victim.thaw()

    async def _strike_all(self, blow: Blow) -> None:
        match blow.kind:
            case "broker":
                self.scene.kill_broker()
                await asyncio.sleep(blow.seconds)
                await asyncio.to_thread(self.scene.start_broker)
            case "slow":
                self.scene.line.rate = SLOW
                await asyncio.sleep(blow.seconds)
                self.scene.line.rate = FAST
            case "hang":
                self.scene.line.is_hung = True
                await asyncio.sleep(blow.seconds)
                self.scene.line.is_hung = False
            case "back":
                await asyncio.to_thread(self.scene.keep_store)
                await self._recovered()
                await asyncio.sleep(blow.seconds)
                await asyncio.to_thread(self.scene.put_store_back)
            case "edit":
                await self.scene.spoil(is_spoiled=True)
                await asyncio.sleep(blow.seconds)
                await self.scene.spoil(is_spoiled=False)
            case _:
                await self.scene.ask("POST /unlisten", seconds=blow.seconds, cut=True)
                await asyncio.sleep(blow.seconds + 0.1)

    async def end(self) -> Verdict:
        """Let the flow and the replicas end, and judge the log."""
        await self.scene.ask("POST /pause")
        await self.scene.settled(1)
        await until(self._has_one_connection_each, "each account has one connection to the hub", 30)
        await asyncio.gather(*(self._end(running) for running in self.alive[:]))
        return await self.scene.verdict()

    async def longest(self) -> dict[Kind, float]:
        """Return the longest time in which an account had nothing new in the log, by kind of blow."""
        found, accounts = await self.scene.log(), self.scene.accounts
        longest: dict[Kind, float] = defaultdict(float)
        for kind, began, ended in self.spans:
            longest[kind] = max(longest[kind], *silences(found, accounts, began, ended).values())
        return dict(sorted(longest.items()))

    def errors(self) -> list[str]:
        """Return what gateways logged as errors, except those that the blows must cause."""
        expected = [text for kind, _, _ in self.spans for text in EXPECTED_ERRORS.get(kind, ())]
        return [line for line in self.scene.errors() if not any(text in line for text in expected)]

    def _in_flight(self, victim: Process, kind: Kind) -> int:
        struck = self.alive if kind in {"broker", "hub", "slow", "hang", "back", "edit"} else [victim]
        return sum(self.scene.in_flight(running.popen.pid) for running in struck)

    def _nothing(self, victim: Process, blow: Blow) -> str:
        """Say what is missing, and what the victim does instead."""
        found = {running.name: self.scene.in_flight(running.popen.pid) for running in self.alive}
        stderr = victim.stderr[-2000:]
        return f"events are in flight where {blow} is to land, {victim.name}; there are {found}; it said {stderr}"

    async def _recovered(self) -> None:
        await self.scene.reached(await self.scene.latest(), settled_of)

    async def _end(self, running: Process) -> None:
        self.alive.remove(running)
        running.signal(signal.SIGTERM)
        assert await running.ended(10) == 0, running.stderr

    async def scale(self, to: int) -> None:
        """Let so many replicas run."""
        await asyncio.gather(*(self._end(running) for running in self.alive[to:]))
        more = [await self.scene.gateway() for _ in range(to - len(self.alive))]
        for running in more:
            await running.wait_for_log("gateway started")  # before that SIGTERM is nobody's to heed
        self.alive += more

    async def _has_one_connection_each(self) -> bool:
        return all(len(user["connections"]) == 1 for user in await self.scene.users())


@asynccontextmanager
async def jetstream(folder: Path, seed: int, accounts: int = ACCOUNTS) -> AsyncIterator[House]:
    """Yield a house for the storm."""
    async with house(folder, accounts=accounts, seed=seed, audit=2, has_line=True) as here:
        yield here


@asynccontextmanager
async def kafka(folder: Path, seed: int, accounts: int = ACCOUNTS) -> AsyncIterator[Place]:
    """Yield a place for the storm, with a broker of its own: it is killed."""
    names = [f"account-{number}" for number in range(1, accounts + 1)]
    server = KafkaServer(folder / "kafka")
    server.put_behind_a_wire()
    with server:
        async with made(folder, server, accounts=names, seed=seed, shards=12, audit=2, has_line=True) as place:
            yield place


@dataclass(frozen=True)
class Outcome:
    """What came of a storm."""

    verdict: Verdict
    errors: list[str]
    longest: dict[Kind, float]
    """Seconds in which an account had nothing new in the log, by kind of blow."""

    @property
    def is_exact(self) -> bool:
        """Whether everything is in the log, once and in order, and no gateway said that it lost something."""
        return not self.verdict.faults and self.verdict.emitted == self.verdict.found > 0 and not self.errors


async def storm(scene: House | Place, blows: Iterable[Blow]) -> Outcome:
    """Strike blow after blow, and log what came of it."""
    struck = Storm(scene)
    await struck.begin()
    for blow in blows:
        await struck.strike(blow)
    outcome = Outcome(await struck.end(), struck.errors(), await struck.longest())
    log.info("%d blows; verdict: %s", len(struck.spans), outcome.verdict)
    for kind, seconds in outcome.longest.items():
        log.info("%s: the longest silence of an account was %.2f s", kind, seconds)
    for line in outcome.errors:
        log.error("a gateway complained: %.300s", line)
    return outcome


async def _for(seconds: float, broker: str, seed: int, folder: Path) -> bool:
    async with (kafka if broker == "kafka" else jetstream)(folder, seed) as scene:
        deadline = time.monotonic() + seconds
        blows = itertools.takewhile(lambda _: time.monotonic() < deadline, schedule(seed))
        return (await storm(scene, blows)).is_exact


def main() -> int:
    """Run for a while; give 1 where the log is not exact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--broker", choices=("jetstream", "kafka"), default="jetstream")
    parser.add_argument("--seed", type=int, default=None)
    asked = parser.parse_args()
    leftovers.guard()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stdout)
    seed = Random().randrange(10**6) if asked.seed is None else asked.seed
    log.info("broker %s, seed %d, %g s; a round: %s", asked.broker, seed, asked.seconds, _round(seed))
    if asked.broker == "kafka":
        kafka_server.require_java()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    is_exact = False
    try:
        is_exact = asyncio.run(_for(asked.seconds, asked.broker, seed, folder))
    finally:
        log.info("seed %d: %s", seed, "exact" if is_exact else f"NOT exact; what everybody said is in {folder}")
        if is_exact:
            shutil.rmtree(folder)
    return 0 if is_exact else 1


def _round(seed: int) -> str:
    return ", ".join(map(str, itertools.islice(schedule(seed), ROUND)))


if __name__ == "__main__":
    sys.exit(main())
