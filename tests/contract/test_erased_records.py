"""Somebody takes records out of the control store, as by a purge: watches hear of it, and changes are taken again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import pytest
from aiokafka.structs import TopicPartition
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from gateway.broker.jetstream.control import JetStreamControl
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.kafka import cluster
from gateway.broker.kafka.control import KafkaControl
from gateway.broker.kafka.topics import DESIRED
from gateway.broker.ports import ControlStore
from tests.support.nats_server import NatsServer
from tests.support.ownership_suite import until
from tests.support.rigs import kafka_rig, nats_rig
from tests.support.watchers import watching

Erase: TypeAlias = Callable[[str], Awaitable[None]]
"""Erases the desired state of a key, and on Kafka all that stands before it, too."""


@asynccontextmanager
async def on_nats(url: str) -> AsyncIterator[tuple[ControlStore, Erase]]:
    async with nats_rig(url) as rig:
        await JetStreamRegistry(rig.connection, rig.topics).prepare(replicas=1, create=True)

        async def erase(key: str) -> None:
            body = {"filter": rig.topics.desired(key)}
            await rig.connection.link.api(f"STREAM.PURGE.{rig.topics.control}", body)

        yield JetStreamControl(rig.connection, rig.topics), erase


def delete_records(address: str, topic: str, place: int) -> None:
    """Let the partition of desired state begin at `place`: Kafka allows that where the topic is not compacted alone."""
    admin = AdminClient({"bootstrap.servers": address})
    policy = ConfigEntry("cleanup.policy", "compact,delete", incremental_operation=AlterConfigOpType.SET)
    edited = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[policy])
    for done in admin.incremental_alter_configs([edited]).values():
        done.result()
    for gone in admin.delete_records([Place(topic, DESIRED, place)]).values():
        gone.result()


@asynccontextmanager
async def on_kafka(address: str) -> AsyncIterator[tuple[ControlStore, Erase]]:
    async with kafka_rig(address) as rig:
        control = KafkaControl(rig.connection, rig.topics)
        tp = TopicPartition(rig.topics.control, DESIRED)

        async def erase(key: str) -> None:
            async with watching(control) as view:
                await view.reaches(key, 1)
                place = view.desired[key].revision
            await asyncio.to_thread(delete_records, address, rig.topics.control, place)
            assert (await cluster.places(rig.connection, [tp], cluster.FIRST))[tp] == place

        yield control, erase


@pytest.fixture(params=["nats", "kafka"])
async def house(request: pytest.FixtureRequest) -> AsyncIterator[tuple[ControlStore, Erase]]:
    """Yield a control store, and the hand that erases."""
    if request.param == "nats":
        server: NatsServer = request.getfixturevalue("nats_server")
        made = on_nats(server.url)
    else:
        made = on_kafka(request.getfixturevalue("kafka_address"))
    async with made as (control, erase):
        yield control, erase


async def test_what_somebody_erased_is_heard_and_can_be_written_again(
    house: tuple[ControlStore, Erase], caplog: pytest.LogCaptureFixture
) -> None:
    control, erase = house
    await control.publish_observed({"account.alpha": b"1"})
    await control.write("account.alpha", b"paused", 0)
    await control.write("account.beta", b"kept", 0)
    async with watching(control) as view:
        await view.reaches("account.beta", 1)
        await view.reaches("account.alpha", 1)
        await erase("account.alpha")
        await control.publish_observed({"account.alpha": b"2"})
        await until(lambda: view.desired["account.alpha"].revision == 0, "the erased desired state is gone")
        revision = await control.write("account.alpha", b"again", 0)
        await view.reaches("account.alpha", revision)
        assert view.values() == {"account.alpha": b"again", "account.beta": b"kept"}
    assert "the last changes may have to be repeated for: account.alpha" in caplog.text


async def test_what_is_erased_while_as_much_is_written_is_heard_too(
    house: tuple[ControlStore, Erase], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of records is the same then."""
    control, erase = house
    monkeypatch.setattr("gateway.broker.jetstream.control._LISTED_S", 0.5)
    await control.write("account.alpha", b"paused", 0)
    async with watching(control) as view:
        await view.reaches("account.alpha", 1)
        await erase("account.alpha")
        await control.write("account.beta", b"new", 0)
        await until(lambda: view.desired["account.alpha"].revision == 0, "the erased desired state is gone")
        await view.reaches("account.beta", 1)


async def test_what_is_forgotten_in_order_is_no_reason_to_read_all_again(
    house: tuple[ControlStore, Erase], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    control, _ = house
    monkeypatch.setattr("gateway.broker.jetstream.control._LISTED_S", 0.05)
    for turn in range(5):
        await control.write(f"account.{turn}", b"1", 0)
    async with watching(control) as view:
        await view.reaches("account.4", 1)
        await control.forget(["account.1", "account.2"])
        await until(lambda: view.desired["account.2"].revision == 0, "it is gone")
        revision = await control.write("account.1", b"2", 0)
        await view.reaches("account.1", revision)
    assert "may have to be repeated" not in caplog.text
