"""The registry: what a deployment has begun is known for ever, apart from the log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.kafka.registry import KafkaRegistry
from gateway.broker.memory import MemoryRegistry
from gateway.broker.ports import Registry
from gateway.errors import ConfigurationError
from tests.contract.nats_server import NatsServer
from tests.contract.rigs import SHARDS, NatsRig, kafka_rig, nats_rig


@pytest.fixture(params=["memory", "jetstream", "kafka"])
async def registry(request: pytest.FixtureRequest) -> AsyncIterator[Registry]:
    if request.param == "memory":
        yield MemoryRegistry()
        return
    if request.param == "kafka":
        async with kafka_rig(request.getfixturevalue("kafka_address")) as on_kafka:
            yield KafkaRegistry(on_kafka.connection, on_kafka.topics)
        return
    server: NatsServer = request.getfixturevalue("nats_server")
    async with nats_rig(server.url) as rig:
        made = JetStreamRegistry(rig.connection, rig.topics)
        await made.prepare(replicas=1, create=True)
        yield made


async def test_the_first_number_of_shards_holds_and_another_is_refused_in_words(registry: Registry) -> None:
    await registry.agree(SHARDS)
    await registry.agree(SHARDS)
    with pytest.raises(ConfigurationError, match=rf"shards: 8 is not .*{SHARDS}"):
        await registry.agree(8)


async def test_an_account_that_is_registered_is_known_however_often(registry: Registry) -> None:
    assert await registry.known() == frozenset()
    for account in ("main", "a" * 63, "main", "B-2_c"):
        await registry.register(account)
    assert await registry.known() == {"main", "a" * 63, "B-2_c"}


async def test_accounts_are_known_after_the_log_is_deleted_and_the_server_restarted(folder: Path) -> None:
    async with NatsServer(folder) as server:
        async with nats_rig(server.url) as rig:
            registry = JetStreamRegistry(rig.connection, rig.topics)
            await registry.prepare(replicas=1, create=True)
            await registry.register("main")
            await rig.connection.link.api(f"STREAM.DELETE.{rig.topics.stream}")
        server.kill()
        server.start()
        async with nats_rig(server.url, topics=rig.topics) as again:
            assert await JetStreamRegistry(again.connection, again.topics).known() == {"main"}


async def test_a_stream_that_would_forget_is_refused(nats: NatsRig) -> None:
    name = f"{nats.topics.prefix}-gateway-control"
    config = {"name": name, "subjects": [f"{nats.topics.prefix}.gateway.control.>"], "max_age": 3_600_000_000_000}
    await nats.connection.link.api(f"STREAM.CREATE.{name}", config)
    with pytest.raises(ConfigurationError, match="max_age is 3600000000000: it would forget accounts"):
        await JetStreamRegistry(nats.connection, nats.topics).prepare(replicas=1, create=True)


async def test_a_missing_stream_that_is_not_to_be_made_is_named(nats: NatsRig) -> None:
    with pytest.raises(ConfigurationError, match="there is no such stream"):
        await JetStreamRegistry(nats.connection, nats.topics).prepare(replicas=1, create=False)
