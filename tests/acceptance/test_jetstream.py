"""The JetStream log under everything at once, and under claims that nobody coordinates."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from random import Random
from typing import Final

import nats
import pytest

from gateway.accounts import shard_of
from tests.support.checker import judge
from tests.support.fault_injection import (
    FAULTS,
    RATE,
    claim,
    cut_connections,
    cuts_of,
    has_cut,
    strike,
    summary,
    were_in_flight,
)
from tests.support.gateway_process import house, meanwhile, until
from tests.support.nats_proxy import Catch, How

log = logging.getLogger(__name__)

Blows = list[tuple[str, How]]
SOME: Final[Blows] = [
    ("gateway", "half"),
    ("gateway", "unanswered"),
    ("server", "unanswered"),
    ("gateway", "unanswered"),
    ("server", "half"),
]
MANY: Final[Blows] = [
    *SOME,
    ("gateway", "half"),
    ("gateway", "unanswered"),
    ("gateway", "half"),
    ("gateway", "unanswered"),
    ("gateway", "unanswered"),
    ("server", "unanswered"),
    ("gateway", "half"),
    ("gateway", "unanswered"),
]
"""Who is killed, and with what of a commit in flight: ten times the gateway, three times the broker."""
SIZES: Final = [pytest.param(4_000, SOME, id="20000"), pytest.param(10_000, MANY, id="50000", marks=pytest.mark.long)]
"""Events of each account, and the kills among them."""


LARGE: Final = (
    '{"OrderId":7,"StrategyId":1,"StrategyName":"%s","EventId":"$ID","EventSeqId":$SEQUENCE,"EventTime":"$TIME"}'
) % ("x" * 20_000)
"""A sound event above 16 KB."""
SHARDS: Final = {shard_of(f"account-{number}", 16) for number in range(1, 6)}
"""What five accounts fall into."""


def fenced(text: str) -> int:
    """Count the shards of which a gateway says that a stranger has claimed them."""
    return text.count("was claimed by a stranger")


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("events", "blows"), SIZES)
async def test_events_are_exact_through_a_bad_hub_and_gateway_and_broker_kills(
    tmp_path: Path, events: int, blows: Blows
) -> None:
    dice = Random(50_000)
    async with house(tmp_path, seed=5, grace=2.0) as here:
        for account in here.accounts:
            await here.ask(f"PATCH /users/{account}/faults", **FAULTS)
        gateway = await here.gateway()
        catches: list[Catch] = []
        async with meanwhile(cut_connections(here, dice)):
            for who, how in blows:
                if who == "gateway":
                    catches.append(await strike(here, how, gateway.kill, dice, count=700))
                    gateway = await here.gateway()
                else:
                    catches.append(await strike(here, how, here.server.kill, dice, count=700))
                    await asyncio.to_thread(here.server.start)
            await here.emit(count=events - 700 * len(blows), rate=RATE)
            await asyncio.sleep(900 / RATE)
            await has_cut(here, min(5, len(blows) // 2))
        await here.settled(events)
        verdict = await here.verdict()
        cuts = await cuts_of(here)

    log.info("%s; %d connections to the hub cut; struck in flight: %s", verdict, cuts, summary(catches))
    assert verdict.faults == {}
    assert (verdict.emitted, verdict.found) == (5 * events, 5 * events)
    assert here.errors() == []
    were_in_flight(catches, [how for _, how in blows])


async def test_a_strangers_claim_loses_nothing_and_the_owner_takes_shards_back(
    tmp_path: Path,
) -> None:
    """As from a release that knew no leases: the fence decides whose batches are stored, the lease who goes on."""
    async with house(tmp_path, seed=6) as here:
        gateway = await here.gateway()
        await here.emit(count=2_000, rate=RATE)
        await here.acknowledged(2_000)
        await claim(here.server.url, SHARDS)
        await until(lambda: fenced(gateway.stderr) == len(SHARDS), "the gateway is fenced")
        await here.settled(2_000)
        verdict = await here.verdict()
        connections = [user["counts"]["connects"] for user in (await here.ask("GET /status"))["users"]]

    log.info("%s; hub connections by account: %s", verdict, connections)
    assert verdict.faults == {}
    assert verdict.emitted == 10_000
    assert connections == [1] * 5


async def test_a_message_that_the_server_refuses_is_isolated_and_the_rest_exact(tmp_path: Path) -> None:
    """An operator lowers the stream's max_msg_size under a gateway at work: one event of 20 KB fits no longer."""
    async with house(tmp_path, seed=7) as here:
        gateway = await here.gateway()
        await here.emit(count=300, rate=RATE)
        await here.acknowledged(500)
        client = await nats.connect(here.server.url)
        stream = (await client.jetstream().stream_info("mesolive-gateway")).config
        await client.jetstream().update_stream(stream.evolve(max_msg_size=16 * 1024))
        await client.close()
        await here.ask("POST /users/account-1/inject", text=LARGE, history="payload")
        await here.emit(count=300, rate=RATE)
        await gateway.wait_for_log("message replaced by a dead letter")
        await here.settled(600)
        truth, found = await here.truth(), await here.log()

    letters = [json.loads(one.value) for one in found if ".dead-letter." in one.subject]
    truth["account-1"] = [event for event in truth["account-1"] if event.sequence != letters[0]["EventSeqId"]]
    verdict = judge(truth, [one for one in found if ".dead-letter." not in one.subject])
    log.info("%s; besides %d dead letter", verdict, len(letters))
    assert verdict.faults == {}
    assert verdict.emitted == 3_000
    (letter,) = letters
    assert letter["Reason"] == "too-large"  # opened again after the refusal, the log knows the stream's new limit
    assert letter["Size"] > 20_000
    assert gateway.stderr.count("message replaced by a dead letter") == 1
