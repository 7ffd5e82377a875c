"""What is refused at start, and in which words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gateway.broker.credentials import BrokerLogin
from gateway.broker.jetstream import stream
from gateway.broker.jetstream.connection import Connection, ConnectionOptions, connect
from gateway.broker.jetstream.embedded import EmbeddedServer
from gateway.broker.jetstream.log import EventLogSettings, JetStreamLog
from gateway.broker.jetstream.stream import StreamSettings, prepare, wanted
from gateway.broker.jetstream.topics import Topics
from gateway.broker.ports import Commit
from gateway.errors import ConfigurationError, Unavailable
from gateway.publication import Message
from gateway.settings.sections import TopicsSettings
from tests.support.nats_server import NatsServer
from tests.support.rigs import nats_rig
from tests.support.sockets import free_port


@pytest.fixture
async def connection(nats_server: NatsServer) -> AsyncIterator[Connection]:
    async with connect(ConnectionOptions(servers=[nats_server.url])) as made:
        yield made


@pytest.fixture
def settings() -> StreamSettings:
    return StreamSettings(Topics(f"t{uuid4().hex}"))


async def test_a_stream_is_made_once_and_passes_its_own_check(connection: Connection, settings: StreamSettings) -> None:
    await prepare(connection, settings)
    await prepare(connection, settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_age": 3_600_000_000_000}, "max_age is 3600 s"),
        ({"max_bytes": 1_000_000, "discard": "old"}, "max_bytes is 1000000 with discard old"),
        ({"max_msgs": 1000, "discard": "old"}, "max_msgs is 1000 with discard old"),
        ({"max_msgs_per_subject": 10}, "max_msgs_per_subject is 10"),
        ({"storage": "memory"}, "storage is memory"),
        ({"retention": "interest"}, "retention is interest"),
        ({"retention": "workqueue"}, "retention is workqueue"),
        ({"allow_atomic": False}, "allow_atomic is off"),
        ({"allow_msg_ttl": False}, "allow_msg_ttl is off"),
        ({"allow_msg_ttl": False, "allow_rollup_hdrs": False}, "allow_rollup_hdrs is off"),
        ({"allow_rollup_hdrs": False, "allow_msg_ttl": False, "deny_purge": True}, "deny_purge is set"),
        ({"max_msg_size": 1000}, "max_msg_size is 1000"),
        ({"no_ack": True, "allow_atomic": False}, "no_ack is set"),
    ],
)
async def test_a_dangerous_stream_is_refused_in_words(
    connection: Connection, settings: StreamSettings, change: dict[str, Any], message: str
) -> None:
    await connection.link.api(f"STREAM.CREATE.{settings.topics.stream}", wanted(settings) | change)

    with pytest.raises(ConfigurationError, match=message):
        await prepare(connection, settings)


async def test_all_dangers_are_named_at_once(connection: Connection, settings: StreamSettings) -> None:
    change = {"storage": "memory", "max_age": 3_600_000_000_000}
    await connection.link.api(f"STREAM.CREATE.{settings.topics.stream}", wanted(settings) | change)

    with pytest.raises(ConfigurationError, match=r"max_age.*storage"):
        await prepare(connection, settings)


async def test_a_stream_that_stores_only_some_subjects_is_refused(
    connection: Connection, settings: StreamSettings
) -> None:
    prefix = settings.topics.prefix
    subjects = {"subjects": [f"{prefix}.events.>", f"{prefix}.gateway.fence.1", f"{prefix}.gateway.checkpoint.>"]}
    await connection.link.api(f"STREAM.CREATE.{settings.topics.stream}", wanted(settings) | subjects)

    with pytest.raises(ConfigurationError, match=rf"subjects lack {prefix}\.gateway\.fence\.\*$|subjects lack"):
        await prepare(connection, settings)


@pytest.mark.parametrize(
    "change",
    [
        {"max_bytes": 10_000_000},
        {"max_msgs": 10_000},
        {"compression": "s2"},
        {"allow_direct": True},
        {"description": ""},
    ],
)
async def test_a_harmless_difference_is_let_be(
    connection: Connection, settings: StreamSettings, change: dict[str, Any]
) -> None:
    await connection.link.api(f"STREAM.CREATE.{settings.topics.stream}", wanted(settings) | change)

    await prepare(connection, settings)


async def test_a_missing_stream_is_not_made_against_the_operators_will(
    connection: Connection, settings: StreamSettings
) -> None:
    with pytest.raises(ConfigurationError, match="there is no such stream"):
        await prepare(connection, StreamSettings(settings.topics, create=False))


async def test_more_replicas_than_servers_are_refused(connection: Connection, settings: StreamSettings) -> None:
    with pytest.raises(ConfigurationError, match="replicas > 1"):
        await prepare(connection, StreamSettings(settings.topics, replicas=3))


async def test_a_stream_with_too_few_replicas_is_refused(connection: Connection, settings: StreamSettings) -> None:
    await prepare(connection, settings)
    with pytest.raises(ConfigurationError, match="num_replicas is 1, not 3"):
        await prepare(connection, StreamSettings(settings.topics, replicas=3))


async def test_an_old_server_is_refused_by_its_version(
    connection: Connection, settings: StreamSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "OLDEST_SERVER", (99, 0, 0))
    with pytest.raises(ConfigurationError, match=r"is too old. Run 99\.0\.0 or later"):
        await prepare(connection, settings)


async def test_a_server_without_jetstream_is_named(folder: Path, settings: StreamSettings) -> None:
    async with (
        EmbeddedServer(folder, config={"jetstream": None}) as server,
        connect(ConnectionOptions(servers=[server.url])) as connection,
    ):
        with pytest.raises(ConfigurationError, match="JetStream is not enabled"):
            await prepare(connection, settings)


async def test_a_server_that_takes_too_little_for_a_checkpoint_is_refused(
    folder: Path, settings: StreamSettings
) -> None:
    async with (
        EmbeddedServer(folder, config={"max_payload": 65_536}) as server,
        connect(ConnectionOptions(servers=[server.url])) as connection,
    ):
        with pytest.raises(ConfigurationError, match="up to 65536 bytes"):
            await prepare(connection, settings)


async def test_a_wrong_port_is_unavailable_and_names_the_address() -> None:
    address = f"nats://127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match=address):
        async with connect(ConnectionOptions(servers=[address])):
            pass


async def test_a_server_that_is_away_does_not_matter_while_another_is_there(nats_server: NatsServer) -> None:
    servers = [f"nats://127.0.0.1:{free_port()}", nats_server.url]
    async with connect(ConnectionOptions(servers=servers)) as connection:
        assert connection.link.max_payload == 1024 * 1024


@pytest.mark.parametrize("address", ["", "localhost", "http://localhost:4222", "nats://:4222", "nats://host:many"])
async def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"broker\.servers"):
        async with connect(ConnectionOptions(servers=[address])):
            pass


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ({"publish": "meso.>", "subscribe": "_INBOX.>"}, r'publish to "\$JS\.API\.STREAM\.INFO\.meso-gateway"'),
        ({"publish": ["meso.>", "$JS.>"], "subscribe": "meso.>"}, r'broker\.inbox_prefix: .* subscribe to "_INBOX\.'),
    ],
)
async def test_a_missing_permission_is_named(folder: Path, allowed: dict[str, Any], message: str) -> None:
    users = [{"user": "u", "password": "p", "permissions": allowed}]
    async with EmbeddedServer(folder, config={"authorization": {"users": users}}) as server:
        password_file = folder.with_name("password")
        password_file.write_text("p")
        access = BrokerLogin(user="u", password_file=password_file)
        options = ConnectionOptions(servers=[server.url], access=access)
        with pytest.raises(ConfigurationError, match=message):
            async with connect(options) as connection:
                await prepare(connection, StreamSettings(Topics("meso")))


async def test_a_server_that_cannot_start_says_why(folder: Path, nats_server: NatsServer) -> None:
    with pytest.raises(Unavailable, match="address already in use"):
        async with EmbeddedServer(folder, port=nats_server.port):
            pass


def test_an_embedded_server_is_a_plain_context_too(folder: Path) -> None:
    with EmbeddedServer(folder) as server:
        assert server.url.startswith("nats://127.0.0.1:")
        process = server.process
        assert process is not None
    assert process.poll() == 0


async def test_what_is_to_stay_for_the_longest_time_that_is_allowed_stays(nats_server: NatsServer) -> None:
    """A server that counts too far removes it with what is to stay for a second."""
    allowed = TopicsSettings.model_json_schema()["properties"]["retention"]["anyOf"][0]["maximum"]
    async with nats_rig(nats_server.url) as rig:
        for shard, (account, ttl) in enumerate({"long": allowed, "short": 1}.items()):
            log = JetStreamLog(rig.connection, EventLogSettings(rig.topics, "a", ttl=ttl))
            async with log.open(shard) as writer:
                await writer.checkpoints()
                await writer.commit(Commit([Message("order-update", account, b"1", b"{}", {})], {account: b"1"}))

        async def stored() -> list[str]:
            read = rig.reader.read(topics=None, accounts=None, start="first", follow=False)
            return [one.message.account async for one in read]

        async with asyncio.timeout(20):
            while "short" in await stored():
                await asyncio.sleep(0.1)
        assert await stored() == ["long"]
