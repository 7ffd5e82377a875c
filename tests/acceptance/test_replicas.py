"""Several gateways share the accounts: they come, go, die and freeze, and every event is there exactly once."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import nats
import pytest
from nats.js.errors import NotFoundError

from gateway.accounts import shard_of
from tests.support.fault_injection import silences
from tests.support.flows import HANDOVER, RATE, SLACK, has_ended, steady_flow
from tests.support.gateway_process import House, Process, house, meanwhile, until

log = logging.getLogger(__name__)

SHARDS: Final = 16
TAKEOVER: Final = 5.0
"""Seconds that an account may be silent when a replica dies, on a machine of its own."""


async def owners(here: House) -> dict[int, int]:
    """Return the process that holds each shard's lease, as the stream has it."""
    client = await nats.connect(here.server.url, allow_reconnect=False)
    try:
        found = {}
        for shard in range(SHARDS):
            try:
                subject = f"mesolive.gateway.ownership.lease.{shard}"
                message = await client.jetstream().get_last_msg("mesolive-gateway-ownership", subject)
            except NotFoundError:
                continue
            found[shard] = int(json.loads(message.data or b"")["member"].rpartition("/")[2])
        return found
    finally:
        await client.close()


async def connections(here: House) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many connections to the hub each account has now, and how many it ever made."""
    users = (await here.ask("GET /status"))["users"]
    present = {user["name"]: len(user["connections"]) for user in users}
    return present, {user["name"]: user["counts"].get("connects", 0) for user in users}


async def shared_by(here: House, *gateways: Process) -> dict[int, int]:
    """Wait until these have even shares, each account over one connection of theirs; return the owners.

    Uneven shares are a hand-over that goes on: what a second look finds then may be another thing.
    """
    pids = {gateway.popen.pid for gateway in gateways}
    found: dict[int, int] = {}

    async def is_so() -> bool:
        nonlocal found
        found = await owners(here)
        if len(found) < SHARDS or set(found.values()) != pids:
            return False
        sizes = Counter(found.values()).values()
        return max(sizes) - min(sizes) <= 1 and set((await connections(here))[0].values()) == {1}

    await until(is_so, f"{[gateway.name for gateway in gateways]} share all shards", 30)
    return found


async def flowing(here: House) -> None:
    """Wait until the newest event that every account has now is in the log."""
    latest = {user["name"]: user["emitted"] for user in (await here.ask("GET /status"))["users"]}
    client = await nats.connect(here.server.url, allow_reconnect=False)
    try:

        async def are_there() -> bool:
            for account in here.accounts:
                try:
                    newest = await client.jetstream().get_last_msg(
                        "mesolive-gateway", f"mesolive.events.*.v1.{account}"
                    )
                except NotFoundError:
                    return latest[account] == 0
                if int((newest.headers or {})["Gateway-Key"]) < latest[account]:
                    return False
            return True

        await until(are_there, "every account's events flow")
    finally:
        await client.close()


@dataclass
class Shift:
    """What changes while replicas come and go: who owns what, and the connections that each account ever made."""

    here: House
    owners: dict[int, int] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    _began: float = 0.0

    def begins(self) -> None:
        """Something is about to happen."""
        self._began = time.time()

    async def ended(self, what: str, *gateways: Process) -> set[int]:
        """Wait until these share everything and all flows; return the shards that moved.

        An account whose shard stayed where it was must still have the connection that it had.
        """
        before, made = self.owners, self.made
        self.owners = await shared_by(self.here, *gateways)
        await flowing(self.here)
        self.spans[what] = (self._began, time.time())
        self.made = (await connections(self.here))[1]
        moved = {shard for shard in before if before[shard] != self.owners[shard]}
        kept = [name for name in made if shard_of(name, SHARDS) not in moved]
        log.info("%s: %d shards moved, %d accounts kept their connections", what, len(moved), len(kept))
        assert [self.made[name] for name in kept] == [made[name] for name in kept], what
        return moved

    def of(self, gateway: Process) -> set[int]:
        """Return the shards of a gateway."""
        return {shard for shard, owner in self.owners.items() if owner == gateway.popen.pid}


async def they_come_and_go_and_die(here: House, shift: Shift, one: Process) -> None:
    shift.begins()
    two = await here.gateway()
    assert await shift.ended("a second comes", one, two) == shift.of(two)

    shift.begins()
    three = await here.gateway()
    assert await shift.ended("a third comes", one, two, three) == shift.of(three)

    of_two = shift.of(two)
    shift.begins()
    two.signal(signal.SIGTERM)
    assert await two.ended(10) == 0
    assert await shift.ended("one is asked to end", one, three) == of_two

    of_three = shift.of(three)
    shift.begins()
    three.kill()
    assert await shift.ended("one is killed", one) == of_three


async def one_freezes_and_wakes(here: House, shift: Shift, one: Process) -> None:
    shift.begins()
    four = await here.gateway()
    await shift.ended("another comes", one, four)
    shared = shift.owners
    opened_again = one.stderr.count("shard log failed, reopening")

    async def is_replaced() -> bool:
        found = await owners(here)
        return len(found) == SHARDS and set(found.values()) == {one.popen.pid}

    began = time.time()
    four.signal(signal.SIGSTOP)
    await until(is_replaced, "the frozen one is replaced")
    await flowing(here)
    shift.spans["one is frozen"] = (began, time.time())
    shift.owners, shift.made = await owners(here), (await connections(here))[1]
    shift.begins()
    four.signal(signal.SIGCONT)
    await shift.ended("the frozen one wakes", one, four)
    assert shift.owners == shared
    # It claimed nothing before it knew, by asking or by being told, what is its own.
    assert one.stderr.count("shard log failed, reopening") == opened_again == 0


@pytest.mark.timeout(240)
async def test_replicas_come_and_go_and_die_and_freeze_and_every_event_is_exact(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=12, seed=8) as here:
        one = await here.gateway()
        shift = Shift(here, await shared_by(here, one))
        async with meanwhile(steady_flow(here)):
            await they_come_and_go_and_die(here, shift, one)
            await one_freezes_and_wakes(here, shift, one)
        await until(lambda: has_ended(here), "nothing is emitted any more")
        await here.settled(1)
        verdict, found = await here.verdict(), await here.log()

    longest = {what: max(silences(found, here.accounts, *span).values()) for what, span in shift.spans.items()}
    for what, seconds in longest.items():
        log.info("%s: the longest silence of an account was %.2f s", what, seconds)
    log.info("%s", verdict)
    assert verdict.faults == {}
    assert verdict.emitted == verdict.found > 1000
    assert here.errors() == []
    abrupt = {"one is killed", "one is frozen"}
    assert all(seconds < SLACK * (TAKEOVER if what in abrupt else HANDOVER) for what, seconds in longest.items()), (
        longest
    )


@pytest.mark.parametrize("seconds", [pytest.param(0.0, marks=pytest.mark.long), 4.0])
async def test_after_an_outage_of_the_broker_all_go_on_with_what_they_had(tmp_path: Path, seconds: float) -> None:
    async with house(tmp_path, accounts=8, seed=9) as here:
        gateways = [await here.gateway() for _ in range(2)]
        before = await shared_by(here, *gateways)
        await here.emit(count=800, rate=RATE)
        made = (await connections(here))[1]
        here.server.kill()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(here.server.start)
        await here.settled(800)
        verdict = await here.verdict()
        after = await shared_by(here, *gateways)
        remade = (await connections(here))[1]

    assert verdict.faults == {}
    assert verdict.emitted == 6_400
    assert after == before
    assert remade == made  # nobody even reconnected
    assert here.errors() == []
