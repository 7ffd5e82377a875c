"""The brokers of the benchmarks: real ones, with their usual settings, each on a free port and in a folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.broker.jetstream.embedded import EmbeddedServer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "contract"))

from kafka_server import any_kafka


@contextmanager
def jetstream(folder: Path) -> Iterator[str]:
    """Give the URL of a nats-server that syncs to disk as it does by default, as Kafka does: now and then."""
    with EmbeddedServer(folder, config={"jetstream": {"store_dir": str(folder / "jetstream")}}) as server:
        yield server.url


@contextmanager
def kafka(folder: Path) -> Iterator[str]:
    """Give the address of a Kafka: one that is given, or as the tests start it."""
    with any_kafka(folder) as address:
        yield address


BROKERS = {"kafka": kafka, "jetstream": jetstream}
