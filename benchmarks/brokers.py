"""The brokers of the benchmarks: real ones, with their usual settings, each on a free port and in a folder."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from gateway.broker.jetstream.embedded import EmbeddedServer
from gateway.simulator.events import CALLBACKS
from tests.support.kafka_server import any_kafka


@contextmanager
def jetstream(folder: Path) -> Iterator[str]:
    """Yield the URL of a nats-server that syncs to disk as it does by default, as Kafka does: now and then."""
    with EmbeddedServer(folder, config={"jetstream": {"store_dir": str(folder / "jetstream")}}) as server:
        yield server.url


@contextmanager
def kafka(folder: Path) -> Iterator[str]:
    """Yield the address of a Kafka: one that is given, or as the tests start it."""
    with any_kafka(folder) as address:
        asyncio.run(_make_topics(address))
        yield address


async def _make_topics(address: str) -> None:
    """Make the topics of the baselines; those that are there stay."""
    names = [*(f"bare.{callback}" for callback in CALLBACKS), "bare.checkpoints", "bare.usual"]
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1) for name in names])
    await admin.close()


BROKERS = {"kafka": kafka, "jetstream": jetstream}
