"""How many questions to Kafka a commit takes: over a long line each of them is 0.4 s or so."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest
from aiokafka.conn import AIOKafkaConnection

from gateway.broker.kafka.registry import KafkaRegistry
from gateway.broker.ports import Commit
from tests.support.event_log_suite import message, read
from tests.support.rigs import KINDS, KafkaRig


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the requests that are sent from now on."""
    requests: list[Any] = []
    send: Callable[..., object] = AIOKafkaConnection.send

    def noted(connection: AIOKafkaConnection, request: Any, *options: Any) -> object:  # noqa: ANN401 - aiokafka's own
        requests.append(request)
        return send(connection, request, *options)

    monkeypatch.setattr(AIOKafkaConnection, "send", noted)
    return requests


def names(requests: list[Any]) -> list[str]:
    """Return what was asked, in order; once where it was asked again, as until the last transaction's markers are."""
    return [name for name, _ in groupby(type(one).__name__.removesuffix("Request") for one in requests)]


async def test_a_writers_first_commit_takes_3_round_trips_whatever_the_topics(
    kafka: KafkaRig, asked: list[Any]
) -> None:
    """One more for each topic was 9 s over a line of 0.4 s, and the commit was given up after 10 s, again and again."""
    async with kafka.log("a").open(0) as shard:  # brokers send clients away from topics that have just been made
        await shard.checkpoints()
        await shard.commit(Commit([message(0, topic=kind) for kind in KINDS], {"demo": b"0"}))
    async with kafka.log("a").open(0) as shard:
        await shard.checkpoints()
        for number in (1, 2):
            asked.clear()
            await shard.commit(Commit([message(number, topic=kind) for kind in KINDS], {"demo": b"%d" % number}))
            assert names(asked) == ["AddPartitionsToTxn", "Produce", "EndTxn"]


async def test_nobody_asks_for_all_topics_of_the_cluster(kafka: KafkaRig, asked: list[Any]) -> None:
    """Where others have thousands of topics, the answer is megabytes."""
    registry = KafkaRegistry(kafka.connection, kafka.topics)
    async with kafka.log("a").open(0) as shard:
        await shard.commit(Commit([message(1)], {"demo": b"1"}))
        await registry.register("demo")
    assert len(await read(kafka.reader)) == 1
    await (await kafka.connection._dialled()).force_metadata_update()  # as after a connection that failed
    known = [one._topics for one in asked if type(one).__name__ == "MetadataRequest"]
    assert known
    assert None not in known
