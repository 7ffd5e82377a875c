"""The consumers of the docs go on with the traces of the messages that they handle."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support import kafka_server
from tests.support.checker import Found
from tests.support.gateway_process import ROOT, house, process
from tests.support.kafka_cluster import made
from tests.support.kafka_server import KafkaServer
from tests.support.otlp_collector import Receiver, receiver
from tests.support.sockets import free_port

PART = 0.3
"""Of the messages that are sampled."""


async def consumed(folder: Path, collector: Receiver, *command: str | Path) -> None:
    """Run an example to the end of what there is."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    async with process(folder, sys.executable, *command, name="consumer", env=env) as consumer:
        assert await consumer.ended() == 0, consumer.stderr


def go_on(collector: Receiver, log: Sequence[Found], system: str) -> None:
    """Compare what the consumer did with what the gateway wrote."""
    orders = [one for one in log if ".order-update." in one.subject]
    sampled = {one.headers["ce-id"]: one for one in orders if "traceparent" in one.headers}
    creates = {span.attributes["messaging.message.id"]: span for span in collector.named("create")}
    processes = {span.attributes["messaging.message.id"]: span for span in collector.named("process")}
    assert 0 < len(sampled) < len(orders)
    assert processes.keys() == sampled.keys()
    for id_, span in processes.items():
        assert span.kind == "consumer"
        assert span.attributes["messaging.system"] == system
        assert (span.trace, span.parent) == creates[id_].place
        assert span.links == (creates[id_].place,)
        assert span.resource["service.name"] == "orders"
        assert creates[id_].resource["service.name"] == "mesolive-gateway"


async def test_on_nats_what_a_consumer_does_is_part_of_the_messages_trace(tmp_path: Path) -> None:
    with receiver() as collector:
        async with house(tmp_path, accounts=2, prefill=400) as here:
            gateway = await here.gateway(collector.env(PART))
            await here.settled(400)
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended(10) == 0
            program = ROOT / "examples" / "traced_nats_consumer.py"
            await consumed(tmp_path, collector, program, here.server.url, "--until-idle")
            log = await here.log()
    go_on(collector, log, "nats")


async def test_on_kafka_what_a_consumer_does_is_part_of_the_messages_trace(tmp_path: Path) -> None:
    kafka_server.require_java()
    wire = free_port()
    config = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire}"}
    with KafkaServer(tmp_path / "kafka", config=config) as server, receiver() as collector:
        server.wire_port = wire
        (tmp_path / "scene").mkdir()
        async with made(tmp_path / "scene", server, prefill=300) as place:
            gateway = await place.gateway(collector.env(PART))
            await place.settled(300)
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended(10) == 0
            program, topic = ROOT / "examples" / "traced_kafka_consumer.py", place.topic("order-update")
            await consumed(tmp_path, collector, program, place.address, topic, "--until-end")
            log = await place.log()
    go_on(collector, log, "kafka")
