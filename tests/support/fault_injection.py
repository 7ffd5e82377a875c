"""What is done to a gateway and its broker while commits are in flight, and the proof that they were."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Final

import nats

from tests.support.checker import Found
from tests.support.gateway_process import House, Scene, until
from tests.support.nats_proxy import Catch, How

RATE: Final = 450.0
"""Events a second of each account."""
CUTS: Final = {"cut", "aborted", "closed", "token expired"}
"""What the hub's log says of the connections that were ended on purpose."""


FAULTS: Final = {
    "duplicate": 0.05,
    "drop": 0.02,
    "reorder": 0.03,
    "history_lag": 0.3,
    "straggle": 0.02,
    "straggle_seconds": 0.3,
    "pages_unsorted": True,
    "empty_pages": 1,
    "page_end": "fresh",
    "sequence_step": 3,
}
"""What the hub does wrong meanwhile; all of it within the history's grace of 2 s."""


async def strike(here: House, how: How, blow: Callable[[], None], dice: Random, *, count: int) -> Catch:
    """Strike at a random moment while each account's hub emits `count` events more.

    Each account has events after that moment, so at least one commit an account goes by then.
    """
    await here.emit(count=count, rate=RATE)
    await asyncio.sleep(dice.uniform(0, 0.6 * count / RATE))
    return await here.wire.strike(how, blow, skip=dice.randrange(len(here.accounts) - 1))


async def claim(server: str, shards: Iterable[int]) -> None:
    """Claim shards as somebody would who shares nothing with the gateways: whoever writes for them next is fenced."""
    client = await nats.connect(server)
    claimed = json.dumps({"version": 1, "owner": "a stranger", "epoch": 99, "token": "t"}).encode()
    for shard in shards:
        subject = f"mesolive.gateway.fence.{shard}"
        await client.jetstream().publish(subject, claimed, headers={"Nats-Rollup": "sub"})
    await client.close()


async def cut_connections(here: Scene, dice: Random) -> None:
    """End connections to the hub at random times, in every way that a hub has, while most of them stand.

    An account that is cut whenever it is back waits ever longer to connect, until nothing is in flight to strike.
    """
    for how in itertools.cycle(("cut", "abort", "close", "expire")):
        connected: list[str] = []
        while 2 * len(connected) < len(here.accounts):
            await asyncio.sleep(dice.uniform(0.1, 0.4))
            connected = [user["name"] for user in await here.users() if user["connections"]]
        await here.ask("POST /drop", user=dice.choice(connected), how=how)


async def cuts_of(here: Scene) -> int:
    """Count the connections that were ended on purpose so far."""
    return len([entry for entry in await here.ask("GET /log") if entry["why"] in CUTS])


async def has_cut(here: Scene, least: int) -> None:
    """Wait until so many connections were ended: how many a while has is the machine's affair."""

    async def are_enough() -> bool:
        return await cuts_of(here) >= least

    await until(are_enough, f"{least} connections to the hub are cut")


def silences(found: Iterable[Found], accounts: Sequence[str], begin: float, end: float) -> dict[str, float]:
    """Give, for each account, the longest time between `begin` and `end` in which it had nothing new in the log."""
    times: dict[str, list[float]] = {account: [begin, end] for account in accounts}
    for one in found:
        if begin < one.stored_at < end:
            times[one.subject.rpartition(".")[2]].append(one.stored_at)
    return {
        account: max(later - earlier for earlier, later in itertools.pairwise(sorted(stored)))
        for account, stored in times.items()
    }


def were_in_flight(catches: list[Catch], wanted: list[How]) -> None:
    """Make sure that every strike met a commit of events on its way: none was counted on good faith."""
    assert [catch.how for catch in catches if catch.events and catch.in_flight] == wanted
    assert [catch.stored_at is not None for catch in catches] == [how == "unanswered" for how in wanted]


def summary(catches: list[Catch]) -> str:
    """Return what was caught, for people."""
    return ", ".join(f"{one.how} ({one.events} events, {one.in_flight} commits)" for one in catches)
