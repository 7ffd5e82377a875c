"""Every broker in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.broker.memory.log import MemoryBroker
from tests.support import kafka_server as kafka_servers
from tests.support.kafka_server import KafkaServer
from tests.support.nats_server import NatsServer, cluster
from tests.support.rigs import LARGEST, KafkaRig, NatsRig, Rig, kafka_rig, nats_rig


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="session")
def nats_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NatsServer]]:
    with cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.fixture
async def nats(nats_server: NatsServer) -> AsyncIterator[NatsRig]:
    async with nats_rig(nats_server.url) as rig:
        yield rig


@pytest.fixture(scope="session")
def kafka_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with kafka_servers.any_kafka(tmp_path_factory.mktemp("kafka")) as address:
        yield address


@pytest.fixture(scope="session")
def kafka_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[KafkaServer]]:
    kafka_servers.require_java()
    with kafka_servers.cluster(tmp_path_factory.mktemp("kafka-cluster")) as servers:
        yield servers


@pytest.fixture
async def kafka(kafka_address: str) -> AsyncIterator[KafkaRig]:
    async with kafka_rig(kafka_address) as rig:
        yield rig


@pytest.fixture(params=["memory", "jetstream", "jetstream-3", "kafka", "kafka-3"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """Yield each broker in turn."""
    if request.param == "memory":
        broker = MemoryBroker(largest=LARGEST)
        yield Rig(broker.log, broker.reader(), one_order=True)
    elif request.param == "jetstream":
        server: NatsServer = request.getfixturevalue("nats_server")
        async with nats_rig(server.url) as made:
            yield made
    elif request.param == "kafka":
        async with kafka_rig(request.getfixturevalue("kafka_address")) as on_kafka:
            yield on_kafka
    elif request.param == "kafka-3":
        nodes: list[KafkaServer] = request.getfixturevalue("kafka_cluster")
        async with kafka_rig(*(node.address for node in nodes), replicas=3) as on_kafka:
            yield on_kafka
    else:
        servers: list[NatsServer] = request.getfixturevalue("nats_cluster")
        async with nats_rig(*(server.url for server in servers), replicas=3) as made:
            yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder for a server of the test's own."""
    return tmp_path / "nats"
