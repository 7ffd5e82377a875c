"""What keeps a gateway from running on JetStream although its streams are as they must be."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import nats
import pytest
from nats.aio.msg import Msg

from gateway.broker.jetstream import stream
from gateway.broker.jetstream.connection import Connection, ConnectionOptions, connect
from gateway.broker.jetstream.control import JetStreamControl
from gateway.broker.jetstream.log import EventLogSettings, JetStreamLog
from gateway.broker.jetstream.reader import JetStreamReader
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.jetstream.topics import Topics
from gateway.broker.jetstream.trial import OLDEST, Trial
from gateway.broker.ports import Commit
from gateway.errors import ActionRequired, ConfigurationError
from tests.support.event_log_suite import message, numbers
from tests.support.nats_server import NatsServer
from tests.support.watchers import steer

NOT_READABLE = (
    "the stream {stream} cannot be read: allow_direct is off. Set it: `nats stream edit {stream} --allow-direct`"
)


@pytest.fixture
def topics() -> Topics:
    return Topics(f"t{uuid4().hex[:12]}")


@pytest.fixture
async def connection(nats_server: NatsServer, topics: Topics) -> AsyncIterator[Connection]:
    async with connect(ConnectionOptions(servers=[nats_server.url])) as made:
        await stream.prepare(made, stream.StreamSettings(topics))
        await JetStreamRegistry(made, topics).prepare(replicas=1, create=True)
        yield made


async def set_to(connection: Connection, name: str, **change: Any) -> None:  # noqa: ANN401 - as JetStream has it
    """Edit a stream, as an operator does."""
    config = (await connection.link.api(f"STREAM.INFO.{name}"))["config"]
    await connection.link.api(f"STREAM.UPDATE.{name}", config | change)


async def test_the_whole_trial_stores_nothing_and_makes_no_consumer(connection: Connection, topics: Topics) -> None:
    async def states() -> list[Any]:
        return [(await connection.link.api(f"STREAM.INFO.{name}"))["state"] for name in (topics.stream, topics.control)]

    before = await states()
    trial = Trial(connection, topics)
    for _ in range(60):  # more than the open batches that a stream may have
        await trial.batches()
    await trial.reads()
    assert await states() == before
    assert OLDEST == "2.14.0"


async def test_a_stream_without_direct_get_is_said_with_its_cure_and_goes_on(
    connection: Connection, topics: Topics
) -> None:
    trial = Trial(connection, topics)
    await set_to(connection, topics.control, allow_direct=False)
    with pytest.raises(ActionRequired) as refused:
        await trial.reads()
    assert str(refused.value) == NOT_READABLE.format(stream=topics.control)
    await set_to(connection, topics.control, allow_direct=True)
    await trial.reads()


async def test_a_watch_of_a_stream_without_direct_get_says_it_as_an_error(
    connection: Connection, topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    await set_to(connection, topics.control, allow_direct=False)
    watch = JetStreamControl(connection, topics).watch()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await anext(watch)
    (record,) = [one for one in caplog.records if "desired state unavailable" in one.getMessage()]
    assert record.levelno == logging.ERROR
    assert record.getMessage().endswith(NOT_READABLE.format(stream=topics.control))


async def test_a_stream_that_allows_no_consumer_is_read_and_watched(connection: Connection, topics: Topics) -> None:
    """Nothing that the gateway reads by is a consumer: they are all there for services."""
    for name in (topics.stream, topics.control):
        await set_to(connection, name, max_consumers=1)
        await connection.link.api(
            f"CONSUMER.CREATE.{name}.taken", {"stream_name": name, "config": {"name": "taken", "durable_name": "taken"}}
        )
    async with JetStreamLog(connection, EventLogSettings(topics, "a")).open(1) as shard:
        await shard.commit(Commit([message(1)], {"demo": b"1"}))
    assert await numbers(JetStreamReader(connection, topics)) == [1]
    await steer(JetStreamControl(connection, topics))


async def test_a_log_without_direct_get_is_said_to_its_reader(connection: Connection, topics: Topics) -> None:
    async with JetStreamLog(connection, EventLogSettings(topics, "a")).open(1) as shard:
        await shard.commit(Commit([message(1)], {"demo": b"1"}))
    await set_to(connection, topics.stream, allow_direct=False)
    with pytest.raises(ActionRequired) as refused:
        await numbers(JetStreamReader(connection, topics))
    assert str(refused.value) == NOT_READABLE.format(stream=topics.stream)


@pytest.mark.parametrize("which", ["stream", "control"])
async def test_a_stream_that_takes_no_batches_is_said(connection: Connection, topics: Topics, which: str) -> None:
    name = getattr(topics, which)
    await set_to(connection, name, allow_atomic=False)
    with pytest.raises(ActionRequired) as refused:
        await Trial(connection, topics).batches()
    assert str(refused.value) == (
        f"the stream {name} takes nothing: atomic publish is disabled (error 10174). Mend it: set allow_atomic to true"
    )


# What cannot be edited any more -----------------------------------------------------------------------------


async def backed_up_and_restored(server: NatsServer, name: str, **change: Any) -> None:  # noqa: ANN401 - see above
    """Do what `nats stream backup`, `nats stream rm` and `nats stream restore --config` do."""
    client = await nats.connect(server.url, allow_reconnect=False)
    chunks: list[bytes] = []
    ended = asyncio.Event()

    async def take(part: Msg) -> None:
        if part.data:
            chunks.append(part.data)
            if part.reply:
                await part.respond(b"")
        else:
            ended.set()

    async def api(call: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = json.loads((await client.request(f"$JS.API.STREAM.{call}.{name}", json.dumps(body).encode())).data)
        assert "error" not in answer, answer
        return dict(answer)

    try:
        await client.subscribe(f"copy.{name}", cb=take)
        copy = await api("SNAPSHOT", {"deliver_subject": f"copy.{name}"})
        async with asyncio.timeout(10):
            await ended.wait()
        await api("DELETE", {})
        into = await api("RESTORE", {"config": copy["config"] | change, "state": copy["state"]})
        for chunk in [*chunks, b""]:
            await client.request(into["deliver_subject"], chunk)
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"sealed": True}, {"sealed": False, "deny_delete": False, "deny_purge": False, "allow_rollup_hdrs": True}),
        ({"storage": "memory"}, {"storage": "file"}),
    ],
)
async def test_what_cannot_be_edited_has_a_way_on_that_keeps_everything(
    nats_server: NatsServer, connection: Connection, topics: Topics, wrong: dict[str, Any], right: dict[str, Any]
) -> None:
    settings = stream.StreamSettings(topics)
    if "storage" in wrong:
        await connection.link.api(f"STREAM.DELETE.{topics.stream}")
        await connection.link.api(f"STREAM.CREATE.{topics.stream}", stream.wanted(settings) | wrong)
    async with JetStreamLog(connection, EventLogSettings(topics, "a")).open(1) as shard:
        await shard.commit(Commit([message(1)], {"demo": b"1"}))
    if "sealed" in wrong:
        await set_to(connection, topics.stream, **wrong)
    with pytest.raises(ConfigurationError) as refused:
        await stream.prepare(connection, settings)
    assert "`nats stream restore --config`, which keeps messages and sequences" in str(refused.value)

    await backed_up_and_restored(nats_server, topics.stream, **right)

    await stream.prepare(connection, settings)
    async with JetStreamLog(connection, EventLogSettings(topics, "b")).open(1) as shard:
        assert await shard.checkpoints() == {"demo": b"1"}
        await shard.commit(Commit([message(2)], {"demo": b"2"}))


async def test_an_overwritten_record_of_the_deployment_can_be_written_again(
    connection: Connection, topics: Topics
) -> None:
    registry = JetStreamRegistry(connection, topics)
    await registry.ensure_layout(16)
    await connection.link.ask(topics.deployment, b"oops")
    with pytest.raises(ConfigurationError) as refused:
        await registry.ensure_layout(16)
    text = '{"version": 1, "shards": 16}'
    assert f"Publish {text} there, with the number of shards that the deployment started with" in str(refused.value)
    await connection.link.ask(topics.deployment, text.encode())
    await registry.ensure_layout(16)
