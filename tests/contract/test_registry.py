"""The registry: what a deployment has begun is known for ever, apart from the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.kafka.registry import KafkaRegistry
from gateway.broker.memory.registry import MemoryRegistry
from gateway.broker.ports import Registry
from gateway.errors import ConfigurationError
from tests.support.nats_server import NatsServer
from tests.support.rigs import SHARDS, KafkaRig, NatsRig, kafka_rig, nats_rig


@pytest.fixture(params=["memory", "jetstream", "kafka"])
async def replica(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], Registry]]:
    """Yield what makes the registry as each further replica has it."""
    if request.param == "memory":
        shared = MemoryRegistry()
        yield lambda: shared
        return
    if request.param == "kafka":
        async with kafka_rig(request.getfixturevalue("kafka_address")) as on_kafka:
            yield lambda: KafkaRegistry(on_kafka.connection, on_kafka.topics)
        return
    server: NatsServer = request.getfixturevalue("nats_server")
    async with nats_rig(server.url) as rig:
        await JetStreamRegistry(rig.connection, rig.topics).prepare(replicas=1, create=True)
        yield lambda: JetStreamRegistry(rig.connection, rig.topics)


@pytest.fixture
def registry(replica: Callable[[], Registry]) -> Registry:
    return replica()


async def test_the_first_number_of_shards_holds_and_another_is_refused_in_words(registry: Registry) -> None:
    await registry.ensure_layout(SHARDS)
    await registry.ensure_layout(SHARDS)
    with pytest.raises(ConfigurationError, match=rf"shards: 8 is not .*{SHARDS}"):
        await registry.ensure_layout(8)


async def test_an_account_that_is_registered_is_known_however_often(registry: Registry) -> None:
    assert await registry.accounts() == frozenset()
    for account in ("main", "a" * 63, "main", "B-2_c"):
        await registry.register(account)
    assert await registry.accounts() == {"main", "a" * 63, "B-2_c"}


async def test_a_forgotten_account_is_known_to_nobody_until_it_is_begun_again(
    replica: Callable[[], Registry],
) -> None:
    one, other = replica(), replica()
    for account in ("main", "second"):
        await one.register(account)
    assert await other.accounts() == {"main", "second"}
    for accounts in (["main"], ["main", "never-begun"], []):
        await one.forget(accounts)
    assert await one.accounts() == await replica().accounts() == {"second"}
    await other.register("main")  # it has not read that it was forgotten
    assert await one.accounts() == await other.accounts() == {"main", "second"}
    await other.forget({"main", "second"})
    assert await one.accounts() == await other.accounts() == frozenset()
    await one.ensure_layout(SHARDS)


async def test_an_account_begun_again_while_it_is_being_forgotten_stays_known(
    replica: Callable[[], Registry],
) -> None:
    registry, other = replica(), replica()
    await registry.register("main")
    forgetting = asyncio.create_task(registry.forget(["main"]))
    await asyncio.sleep(0.5)
    await other.register("main")
    await forgetting
    await asyncio.sleep(1)
    assert await registry.accounts() == await other.accounts() == {"main"}


async def test_on_kafka_the_long_forgotten_is_unknown_without_a_tombstone(
    kafka: KafkaRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = KafkaRegistry(kafka.connection, kafka.topics)
    await registry.register("main")
    registry._accounts.add("forgotten")
    assert await registry.accounts() == {"main", "forgotten"}
    monkeypatch.setattr("gateway.broker.kafka.registry._TOMBSTONE_RETENTION_S", 0.0)
    assert await registry.accounts() == {"main"}


async def test_accounts_stay_known_after_the_log_is_deleted_and_a_restart(folder: Path) -> None:
    async with NatsServer(folder) as server:
        async with nats_rig(server.url) as rig:
            registry = JetStreamRegistry(rig.connection, rig.topics)
            await registry.prepare(replicas=1, create=True)
            await registry.register("main")
            await rig.connection.link.api(f"STREAM.DELETE.{rig.topics.stream}")
        server.kill()
        server.start()
        async with nats_rig(server.url, topics=rig.topics) as again:
            assert await JetStreamRegistry(again.connection, again.topics).accounts() == {"main"}


async def test_a_stream_that_would_forget_is_refused(nats: NatsRig) -> None:
    name = f"{nats.topics.prefix}-gateway-control"
    config = {"name": name, "subjects": [f"{nats.topics.prefix}.gateway.control.>"], "max_age": 3_600_000_000_000}
    await nats.connection.link.api(f"STREAM.CREATE.{name}", config)
    with pytest.raises(ConfigurationError, match="max_age is 3600000000000: it would forget accounts"):
        await JetStreamRegistry(nats.connection, nats.topics).prepare(replicas=1, create=True)


async def test_a_stream_of_a_release_that_needed_less_is_edited_or_named(nats: NatsRig) -> None:
    name, link = f"{nats.topics.prefix}-gateway-control", nats.connection.link
    former = {"name": name, "subjects": [f"{nats.topics.prefix}.gateway.control.>"], "max_msgs_per_subject": 1}
    await link.api(f"STREAM.CREATE.{name}", former)
    registry = JetStreamRegistry(nats.connection, nats.topics)
    await registry.register("main")
    message = "allow_atomic is off: nothing could be reported; allow_msg_ttl is off: nothing could be forgotten"
    with pytest.raises(ConfigurationError, match=message):
        await registry.prepare(replicas=1, create=False)
    await registry.prepare(replicas=1, create=True)
    await registry.prepare(replicas=1, create=False)
    config = (await link.api(f"STREAM.INFO.{name}"))["config"]
    assert (config["allow_atomic"], config["allow_msg_ttl"]) == (True, True)
    assert await registry.accounts() == {"main"}
    await registry.forget(["main"])
    assert await registry.accounts() == frozenset()


async def test_a_missing_stream_that_is_not_to_be_made_is_named(nats: NatsRig) -> None:
    with pytest.raises(ConfigurationError, match="there is no such stream"):
        await JetStreamRegistry(nats.connection, nats.topics).prepare(replicas=1, create=False)
