"""Topics that somebody deletes: it is said what is lost, nothing is published twice, and what can go on goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType

from tests.support import kafka_server
from tests.support.checker import judge
from tests.support.control_client import control_of, put
from tests.support.gateway_process import TIMEOUT_S, Process, until
from tests.support.kafka_cluster import Place, made
from tests.support.kafka_server import KafkaServer
from tests.support.sockets import free_port

RATE = 300.0
KIND, CALLBACK = "leg-update", "OnLegUpdate"
STILL = '"account": "{account}", "error": "the checkpoint of {account} is gone.*account halted'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Yield a broker that says that it is where the wire is."""
    kafka_server.require_java()
    wire = free_port()
    config = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire}"}
    with KafkaServer(tmp_path_factory.mktemp("kafka-topics"), config=config) as made_:
        made_.wire_port = wire
        yield made_


@asynccontextmanager
async def place_at(folder: Path, server: KafkaServer) -> AsyncIterator[Place]:
    async with made(folder, server, broker=", commit_timeout: 4") as place:
        yield place


def admin(place: Place) -> AdminClient:
    return AdminClient({"bootstrap.servers": place.inner, "log_level": 0})


async def delete(place: Place, *topics: str) -> None:
    """Delete topics, and see them gone."""
    client = admin(place)
    for done in client.delete_topics(list(topics)).values():
        await asyncio.to_thread(done.result)

    async def are_gone() -> bool:
        return not set(topics) & set((await asyncio.to_thread(client.list_topics, timeout=10)).topics)

    await until(are_gone, f"{topics} are gone")


async def serving(place: Place) -> Process:
    """Start a gateway, and wait until it has published something."""
    gateway = await place.gateway()
    await gateway.wait_for_log('"state": "live"')
    await place.emit(100, RATE)
    await place.settled(100)
    return gateway


async def is_exact(place: Place, gateway: Process) -> None:
    """Judge the log: what was lost with the topic is there again, once, and is told by account."""
    await until(lambda: gateway.stderr.count("broker store went back in time") >= len(place.accounts), "it is told")
    verdict = await place.verdict()
    deadline = asyncio.get_running_loop().time() + TIMEOUT_S
    while verdict.found < verdict.emitted and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.5)
        verdict = await place.verdict()
    assert verdict.faults == {}


async def test_a_deleted_topic_of_events_is_made_again_and_so_are_its_events(
    tmp_path: Path, server: KafkaServer
) -> None:
    async with place_at(tmp_path, server) as place:
        gateway = await serving(place)
        topic = place.topic(KIND)
        await delete(place, topic)
        await place.emit(200, RATE)
        logged = await gateway.wait_for_log(".*topic was deleted, re-creating it.*")
        assert f'"topic": "{topic}", "went_with_it": "its events: what this process wrote there last is' in logged[0]
        assert '"level": "error"' in logged[0]
        await place.settled(300)
        await is_exact(place, gateway)
        client = admin(place)
        found = (await asyncio.to_thread(client.list_topics, timeout=10)).topics[topic]
        (described,) = client.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
        config = await asyncio.to_thread(described.result)
    assert len(found.partitions) == 4
    assert config["retention.ms"].source == 1  # the topic's own, not the broker's


async def test_a_topic_of_events_that_others_must_make_is_waited_for(tmp_path: Path, server: KafkaServer) -> None:
    async with place_at(tmp_path, server) as place:
        assert (await place.run("check"))[0] == 0
        place.config.write_text(place.config.read_text().replace("{partitions: 4}", "{partitions: 4, create: false}"))
        gateway = await serving(place)
        topic = place.topic(KIND)
        await delete(place, topic)
        await place.emit(200, RATE)
        logged = await gateway.wait_for_log(".*topics.create is false: somebody else must make .*")
        assert f"{topic} with 4 partitions and {{'cleanup.policy': 'delete', 'retention.ms'" in logged[0]
        assert '"level": "error"' in logged[0]
        client = admin(place)
        assert topic not in (await asyncio.to_thread(client.list_topics, timeout=10)).topics
        (made_,) = client.create_topics([NewTopic(topic, 4, 1, config={"retention.ms": "-1"})]).values()
        await asyncio.to_thread(made_.result)
        await place.settled(300)
        await is_exact(place, gateway)


async def test_without_its_checkpoints_nothing_is_published_again_nor_begun_anew(
    tmp_path: Path, server: KafkaServer
) -> None:
    async with place_at(tmp_path, server) as place:
        gateway = await serving(place)
        checkpoints = f"{place.prefix}.gateway.checkpoints"
        await delete(place, checkpoints)
        await place.emit(50, RATE)
        logged = await gateway.wait_for_log(f".*there is no topic {checkpoints} any more.*Put it back from a copy.*")
        assert '"level": "error"' in logged[0]
        assert checkpoints not in (await asyncio.to_thread(admin(place).list_topics, timeout=10)).topics
        assert (await place.run("check"))[0] == 0  # which makes it anew
        for _ in range(2):
            for account in place.accounts:
                await gateway.wait_for_log(STILL.format(account=account))
            gateway.kill()
            gateway = await place.gateway()
        assert "will not claim it again" not in place.gateways[0].stderr
        log, truth = await place.log(), await place.truth()
    known = {account: events[:100] for account, events in truth.items()}
    assert judge(known, log, by_kind=True).faults == {}
    assert len(log) == 300


async def test_accounts_that_are_forgotten_are_written_again(tmp_path: Path, server: KafkaServer) -> None:
    async with place_at(tmp_path, server) as place:
        gateway = await serving(place)
        accounts, checkpoints = (f"{place.prefix}.gateway.{name}" for name in ("accounts", "checkpoints"))
        await delete(place, accounts, place.topic(KIND))  # the latter lets the shards look
        await place.emit(50, RATE)
        await gateway.wait_for_log('"topic": "[^"]*accounts", "went_with_it": "the accounts, which are written again"')
        await gateway.wait_for_log("account registry lost, rewriting it from memory")
        await place.settled(150)
        gateway.kill()
        await delete(place, checkpoints)
        gateway = await place.gateway()
        for account in place.accounts:  # they are known, so their checkpoints are missed
            await gateway.wait_for_log(STILL.format(account=account))


async def test_events_without_any_word_of_how_far_they_go_end_run_at_its_start(
    tmp_path: Path, server: KafkaServer
) -> None:
    async with place_at(tmp_path, server) as place:
        gateway = await serving(place)
        gateway.signal(15)
        assert await gateway.ended(10) == 0
        accounts, checkpoints = (f"{place.prefix}.gateway.{name}" for name in ("accounts", "checkpoints"))
        await delete(place, accounts)
        gateway = await serving_again(place, 200)  # the checkpoints tell everything
        gateway.signal(15)
        assert await gateway.ended(10) == 0
        await delete(place, accounts, checkpoints)
        code, output = await place.run("run")
        log = await place.verdict()
    assert code == 2
    message = f"topic {checkpoints}: is empty, and so is {accounts}, although events were written"
    assert any(message in one for one in output)
    assert log.faults == {}
    assert log.found == 600


async def serving_again(place: Place, count: int) -> Process:
    """Start a gateway, and wait until each account has `count` events."""
    gateway = await place.gateway()
    await place.emit(100, RATE)
    await place.settled(count)
    return gateway


async def test_partitions_that_were_added_are_a_warning_and_every_event_is_exact(
    tmp_path: Path, server: KafkaServer
) -> None:
    async with place_at(tmp_path, server) as place:
        gateway = await serving(place)
        topic, checkpoints = place.topic(KIND), f"{place.prefix}.gateway.checkpoints"
        news = [NewPartitions(topic, 6), NewPartitions(checkpoints, 5)]
        client = admin(place)
        for done in client.create_partitions(news).values():
            await asyncio.to_thread(done.result)
        await place.emit(100, RATE)
        await place.settled(200)
        gateway.signal(15)
        assert await gateway.ended(10) == 0
        code, output = await place.run("check")
        assert code == 0
        message = f"{topic} has 6 partitions, and the gateway goes on with the first 4"
        assert any(line.startswith("ok    broker: Kafka") and message in line for line in output), output
        gateway = await serving_again(place, 300)
        (warning,) = [line for line in gateway.lines() if message in str(line.get("found"))]
        assert warning["level"] == "warning"
        verdict = await place.verdict()
    assert verdict.faults == {}
    assert verdict.found == 900


async def test_a_deleted_topic_of_control_is_made_again_and_names_the_paused(
    tmp_path: Path, server: KafkaServer
) -> None:
    async with place_at(tmp_path, server) as place:
        gateway = await serving(place)
        control = await control_of(gateway, place.http)
        await control.ready()
        await put(control, place.accounts[0], "paused")
        topic = f"{place.prefix}.gateway.control"
        await delete(place, topic)
        # A deleted topic is missed when a shard is opened: let the one of events be missed, too.
        await delete(place, place.topic(KIND))
        await place.emit(200, RATE)
        logged = await gateway.wait_for_log(f'.*"topic": "{topic}", "went_with_it": .*')
        assert "paused accounts run again" in logged[0]
        await gateway.wait_for_log(f"may have to be repeated for: account.{place.accounts[0]}")
        await place.settled(300)
        await is_exact(place, gateway)
