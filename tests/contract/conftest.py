"""Every broker in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.broker.memory import MemoryBroker
from tests.contract.nats_server import NatsServer, cluster
from tests.contract.rigs import LARGEST, NatsRig, Rig, nats_rig


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


@pytest.fixture(params=["memory", "jetstream", "jetstream-3"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """Give each broker in turn."""
    if request.param == "memory":
        broker = MemoryBroker(largest=LARGEST)
        yield Rig(broker.log, broker.reader())
    elif request.param == "jetstream":
        server: NatsServer = request.getfixturevalue("nats_server")
        async with nats_rig(server.url) as made:
            yield made
    else:
        servers: list[NatsServer] = request.getfixturevalue("nats_cluster")
        async with nats_rig(*(server.url for server in servers), replicas=3) as made:
            yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder for a server of the test's own."""
    return tmp_path / "nats"
