"""A replica between a simulated hub and a broker in memory: what it does about each answer of the broker."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from random import Random

import pytest
import structlog

from gateway.accounts import shard_of
from gateway.broker.memory.faults import Edge
from gateway.broker.ports import Limits
from gateway.errors import OutcomeUnknown, Unavailable
from gateway.replica.source.account import AccountState
from gateway.settings.sections import MessagesSettings
from gateway.simulator.history import Injection
from tests.support.in_process import Build, World
from tests.unit.replica.picky import Picky


def enlarge(world: World, account: str, sequence: int, size: int) -> None:
    """Make one event of the hub's history a large one."""
    payloads = world.hub.user(account).history.payloads
    mark = b'ame":"'
    payload = payloads[sequence - 1]
    assert mark in payload
    payloads[sequence - 1] = payload.replace(mark, mark + b"x" * size, 1)


async def test_a_message_above_the_brokers_limit_is_a_dead_letter_and_all_go_on(build: Build) -> None:
    world = await build("alpha", prefill=20)
    world.broker.largest = 16 * 1024
    enlarge(world, "alpha", 5, 20_000)
    await world.replica()
    await world.published("alpha", range(1, 21))
    world.hub.user("alpha").emit(5)
    await world.published("alpha", range(21, 26))

    assert world.keys_of("alpha") == list(range(1, 26))
    (letter,) = [message for message in world.messages("alpha") if message.topic == "dead-letter"]
    body = json.loads(letter.value)
    assert (letter.key, body["Reason"], body["EventSeqId"], body["Truncated"]) == (b"5", "too-large", 5, True)
    assert body["Size"] > 20_000
    assert len(base64.b64decode(body["Raw"])) < 16 * 1024
    assert world.status("alpha").state is AccountState.LIVE


async def test_a_refused_commit_is_halved_until_the_culprit_is_a_dead_letter(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.replica.sink.rejections._FOR", 1.0)
    world = await build("alpha", "beta", prefill=64)
    picky = Picky(world.broker.log("picky"), culprit=23)
    await world.replica(picky)
    for account in ("alpha", "beta"):
        await world.published(account, range(1, 65))
        world.hub.user(account).emit(5)
        await world.published(account, range(65, 70))

        assert world.keys_of(account) == list(range(1, 70))
        (letter,) = [message for message in world.messages(account) if message.topic == "dead-letter"]
        assert letter.key == b"23"
        assert json.loads(letter.value)["Reason"] == "rejected"
    assert len(picky.commits) < 60  # by halves, not one by one


async def test_an_unknown_outcome_loses_and_doubles_nothing_and_keeps_the_hub(build: Build) -> None:
    world = await build("alpha", "beta", prefill=200)
    fates = ["stored", "under way", "lost", "no room"]
    later: list[Callable[[], bool]] = []

    async def faults(edge: Edge) -> None:
        await asyncio.sleep(0)
        if edge.call == "open" and edge.when == "after":
            for land in later:
                land()  # under way all the time: the claim must have fenced it
        if edge.call != "commit" or not fates or (edge.when == "after") != (fates[0] == "stored"):
            return
        fate = fates.pop(0)
        if fate == "no room":
            raise Unavailable(fate)
        if fate == "under way":
            later.append(edge.land)
        raise OutcomeUnknown(fate)

    world.broker.faults = faults
    replica = await world.replica()
    for emitted in range(20):
        for account in ("alpha", "beta"):
            world.hub.user(account).emit(20)
        await asyncio.sleep(Random(emitted).uniform(0, 0.05))
    for account in ("alpha", "beta"):
        await world.published(account, range(1, 601))
        assert world.keys_of(account) == list(range(1, 601))
        assert world.hub.user(account).counts["connects"] == 1
        assert world.status(account).connects == 1
        assert not [message for message in world.messages(account) if "late" in message.attributes]
    assert fates == []
    assert later
    assert replica.commits() > 0


async def test_a_fenced_shard_stays_off_and_says_so_while_the_others_go_on(build: Build) -> None:
    world = await build("alpha", "beta", prefill=10)
    assert shard_of("alpha", 16) != shard_of("beta", 16)
    with structlog.testing.capture_logs() as logs:
        await world.replica(shards=16)
        for account in ("alpha", "beta"):
            await world.published(account, range(1, 11))
            await world.becomes(account, AccountState.LIVE)
        async with world.broker.log("another").open(shard_of("alpha", 16)):
            world.hub.user("alpha").emit(5)
            world.hub.user("beta").emit(5)
            await world.becomes("alpha", AccountState.FENCED)
            await world.published("beta", range(11, 16))

    assert world.keys_of("alpha") == list(range(1, 11))
    assert world.keys_of("beta") == list(range(1, 16))
    assert world.broker.owners[shard_of("alpha", 16)] == "another"
    (error,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert error["shard"] == shard_of("alpha", 16)
    assert "was claimed by another" in error["error"]


@pytest.mark.parametrize("checkpoint", [b'{"version":99,"verified":0}', b"not JSON", b"{}", b"\xff"])
async def test_an_account_with_an_unreadable_checkpoint_stops_others_go_on(build: Build, checkpoint: bytes) -> None:
    world = await build("alpha", "beta", prefill=10)
    world.broker.stored_checkpoints[0] = {"alpha": checkpoint}
    with structlog.testing.capture_logs() as logs:
        await world.replica()
        await world.published("beta", range(1, 11))
        await world.becomes("alpha", AccountState.DIVERGED)
        world.hub.user("alpha").emit(5)
        world.hub.user("beta").emit(5)
        await world.published("beta", range(11, 16))

    assert world.keys_of("alpha") == []
    assert world.broker.stored_checkpoints[0]["alpha"] == checkpoint
    assert world.status("alpha").last_error
    assert [entry["account"] for entry in logs if entry["log_level"] == "error"] == ["alpha"]


async def test_a_refused_key_is_said_and_read_afresh(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.replica.source.retry._UNAUTHORIZED_DELAY_S", 0.05)  # only a timer: what it does stays
    world = await build("alpha", "beta", prefill=10)
    (world.keys / "alpha").write_text("yesterdays-key")
    with structlog.testing.capture_logs() as logs:
        await world.replica()
        await world.becomes("alpha", AccountState.UNAUTHORIZED)
        await world.published("beta", range(1, 11))
        assert world.keys_of("alpha") == []
        assert "401" in (world.status("alpha").last_error or "")
        (world.keys / "alpha").write_text("key-of-alpha\n")
        await world.published("alpha", range(1, 11))
        await world.becomes("alpha", AccountState.LIVE)

    assert world.status("alpha").last_error is None
    refusals = [entry for entry in logs if entry["log_level"] == "error"]
    assert refusals
    assert {entry["account"] for entry in refusals} == {"alpha"}
    assert "yesterdays-key" not in json.dumps(logs)


async def test_an_account_goes_on_where_the_last_replica_stopped(build: Build) -> None:
    world = await build("alpha", prefill=10)
    for first in (1, 16, 31):
        replica = await world.replica()
        await world.published("alpha", range(1, first + 10))
        world.hub.user("alpha").emit(5)
        await world.published("alpha", range(1, first + 15))
        replica.stop()
        world.hub.user("alpha").emit(10)

    await world.replica()
    await world.published("alpha", range(1, 56))
    assert world.keys_of("alpha") == list(range(1, 56))


async def test_a_stopped_shard_whose_last_commit_fails_is_not_said_to_reopen(build: Build) -> None:
    """As where its next owner claims it at once: what is stored is the next one's to read."""
    world = await build("acme", prefill=5)
    struck = asyncio.Event()

    async def fail(edge: Edge) -> None:
        if edge.call == "commit" and edge.when == "after" and not struck.is_set():
            replica.stop()
            struck.set()
            raise OutcomeUnknown("fenced, although nobody else is seen")

    world.broker.faults = fail
    with structlog.testing.capture_logs() as lines:
        replica = await world.replica()
        await struck.wait()
        await world.replica()
        await world.published("acme", range(1, 6))
    (line,) = [one for one in lines if "without a clean answer" in one["event"]]
    assert (line["log_level"], line["error"]) == ("info", "fenced, although nobody else is seen")
    assert [one for one in lines if "shard log failed, reopening" in one["event"]] == []


async def test_keys_begin_with_the_account_where_set_dead_letters_included(build: Build) -> None:
    world = await build("main", prefill=3)
    enlarge(world, "main", 2, 200_000)
    world.broker.largest = 100_000
    await world.replica(messages=MessagesSettings(key="account-sequence"))
    await world.until(lambda: len(world.messages("main")) == 3, "all is published")
    found = [(message.topic == "dead-letter", message.key) for message in world.messages("main")]
    assert found == [(False, b"main:1"), (True, b"main:2"), (False, b"main:3")]


async def test_a_commit_holds_only_its_messages_however_large_dead_letters_are(build: Build) -> None:
    world = await build("alpha", "beta", prefill=1)
    world.broker.limits = Limits(messages=10_000, bytes=4_000_000)
    await world.replica()
    for account in ("alpha", "beta"):
        await world.published(account, [1])
        await world.becomes(account, AccountState.LIVE)
    goes_on = asyncio.Event()

    async def hold(edge: Edge) -> None:
        if edge.call == "commit":
            await goes_on.wait()

    world.broker.faults = hold
    for number in range(4_500):  # small as raw bytes, and large in words
        world.hub.user("alpha").inject(Injection(b"%d" % number, callback="\N{GRINNING FACE}" * 60))
    world.hub.user("beta").emit(20)
    account = world.replicas[-1]._shards.accounts["alpha"]
    await world.until(lambda: account.link.pushes >= 4_500, "all are pushed")
    goes_on.set()

    await world.published("beta", range(1, 22))
    await world.until(lambda: len(world.messages("alpha")) == 4_501, "all are published")
