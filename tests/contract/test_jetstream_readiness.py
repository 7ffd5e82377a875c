"""What is said while NATS is there and its JetStream is not, and that it is no wrong setting where it may pass."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.broker.jetstream import stream
from gateway.broker.jetstream.connection import Connection, ConnectionOptions, connect
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.jetstream.stream import StreamSettings, prepare
from gateway.broker.jetstream.topics import Topics
from gateway.cli.check import _check_broker
from gateway.errors import ActionRequired, NotReady, Unavailable
from gateway.settings.model import Settings
from gateway.settings.sections import AccountsSettings, BrokerSettings, HubSettings
from tests.support.nats_server import NatsServer, cluster, leaf_and_hub

STREAM = StreamSettings(Topics("meso"))
TIMEOUT_S = 60.0


@pytest.fixture
def leaf(folder: Path) -> Iterator[tuple[NatsServer, NatsServer]]:
    with leaf_and_hub(folder) as servers:
        yield servers


@pytest.fixture
async def at_leaf(leaf: tuple[NatsServer, NatsServer]) -> AsyncIterator[Connection]:
    async with connect(ConnectionOptions(servers=[leaf[0].url])) as connection:
        yield connection


async def prepared(connection: Connection) -> None:
    """Wait until it serves; each refusal until then must be of the kind that the gateway waits for."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                return await prepare(connection, STREAM)
            except Unavailable:
                await asyncio.sleep(0.1)


async def refused(connection: Connection) -> str:
    """Wait until the cluster says that it has no leader; until then it answers still, or does not answer."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                await prepare(connection, STREAM)
            except NotReady as error:
                if "says" in str(error):
                    return str(error)


def settings(server: NatsServer, folder: Path) -> Settings:
    return Settings(
        hub=HubSettings(url="http://hub"),
        accounts=AccountsSettings(directory=folder),
        broker=BrokerSettings(servers=[server.url], prefix="meso"),
    )


async def test_a_server_without_jetstream_that_reaches_others_may_pass(
    at_leaf: Connection, leaf: tuple[NatsServer, NatsServer], tmp_path: Path
) -> None:
    """It was: the gateway ended with code 2 while the servers behind it were away."""
    message = r"the NATS server edge has no JetStream, and nobody that it reaches .* Start the servers that have it"
    with pytest.raises(ActionRequired, match=message):
        await prepare(at_leaf, STREAM)
    with pytest.raises(ActionRequired, match=message):
        await _check_broker(settings(leaf[0], tmp_path), [])


async def test_an_api_of_another_name_is_not_taken_for_jetstream_that_is_off(
    leaf: tuple[NatsServer, NatsServer],
) -> None:
    near, far = leaf
    async with connect(ConnectionOptions(servers=[near.url], api_prefix="$JS.far.API")) as connection:
        with pytest.raises(ActionRequired, match=r"nobody serves \$JS\.far\.API: either broker\.api_prefix is not"):
            await prepare(connection, STREAM)
        far.start()
        await prepared(connection)


async def test_a_cluster_without_a_leader_says_so_and_is_waited_for(folder: Path, tmp_path: Path) -> None:
    with cluster(folder) as servers:
        async with connect(ConnectionOptions(servers=[servers[0].url], timeout=2.0)) as connection:
            await prepared(connection)
            leader = (await connection.link.api(f"STREAM.INFO.{STREAM.topics.stream}"))["cluster"]["leader"]
        place = int(leader == "n0")  # the server that has the only copy would serve it without the others
        message = f"JetStream says: .*, asked by way of the NATS server n{place}: the cluster or the stream elects"
        others = [server for server in servers if server is not servers[place]]
        async with connect(ConnectionOptions(servers=[servers[place].url], timeout=2.0, discover=False)) as connection:
            for server in others:
                server.kill()
            assert re.search(message, await refused(connection))
            with pytest.raises(NotReady, match=message):
                await _check_broker(settings(servers[place], tmp_path), [])
            for server in others:
                server.start()
            await prepared(connection)


async def test_too_few_servers_for_the_copies_are_named_and_waited_for(folder: Path, tmp_path: Path) -> None:
    """It was: check said `Start NATS there` of a cluster that was running."""
    message = r"stream [-\w]+: JetStream finds no 5 servers that can hold it .* or set broker\.replicas to fewer"
    with cluster(folder) as servers:
        wanted = settings(servers[0], tmp_path)
        wanted = wanted.model_copy(update={"broker": wanted.broker.model_copy(update={"replicas": 5})})
        async with connect(ConnectionOptions(servers=[servers[0].url])) as connection:
            await prepared(connection)  # the cluster has a leader
            with pytest.raises(NotReady, match=message):
                await prepare(connection, StreamSettings(Topics("other"), replicas=5))
            with pytest.raises(NotReady, match=message):
                await JetStreamRegistry(connection, Topics("other")).prepare(replicas=5, create=True)
            await connection.link.api(f"STREAM.DELETE.{STREAM.topics.stream}")
        with pytest.raises(NotReady, match=message):
            await _check_broker(wanted, [])


async def test_servers_of_a_cluster_are_one_before_and_after_streams_are_made(folder: Path) -> None:
    topics = Topics("meso")
    with cluster(folder) as servers:
        urls = [server.url for server in servers]
        async with connect(ConnectionOptions(servers=urls)) as connection:
            assert {await stream.identity(connection, topics, url) for url in urls} == {None}
            registry = JetStreamRegistry(connection, topics)
            async with asyncio.timeout(TIMEOUT_S):
                await registry.prepare(replicas=3, create=True)
            (created,) = {await stream.identity(connection, topics, url) for url in urls}
    assert created
