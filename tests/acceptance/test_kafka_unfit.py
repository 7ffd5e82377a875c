"""A Kafka that answers and is of no use: `check` fails and `run` says an ERROR, in the same words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import kafka_server
from tests.support.kafka_cluster import Place, made
from tests.support.kafka_server import KafkaServer
from tests.support.sockets import free_port

TIMES = (
    "broker 1 (127.0.0.1:{at}) refuses a session of 6 s (InvalidSessionTimeout): group.min.session.timeout.ms is above "
    "it, or group.max.session.timeout.ms below. Mend it: set group.min.session.timeout.ms of the brokers to 6000 or "
    "less; broker 1 (127.0.0.1:{at}) refuses a transaction of 10 s (InvalidTransactionTimeout): "
    "transaction.max.timeout.ms is below it. Mend it: set transaction.max.timeout.ms of the brokers to 10000 or more"
)
NOWHERE = (
    "broker 1 tells clients to come to 127.0.0.1:{gone}, which refuses the connection. Mend it: let "
    "advertised.listeners of that broker name an address that the gateway reaches"
)
NO_COORDINATORS = (
    "offsets.topic.replication.factor is 3 on broker 1, and there is 1 broker, so __consumer_offsets cannot be made.",
    "transaction.state.log.replication.factor is 3 on broker 1, and there is 1 broker, so __transaction_state cannot",
)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaServer, int, int]]:
    """Yield a broker that gives no time, and ports of a listener whose advertised address is another one, closed."""
    kafka_server.require_java()
    wire, bound, gone = free_port(), free_port(), free_port()
    config = {
        "listeners": f"PLAINTEXT://127.0.0.1:{{port}},ASTRAY://127.0.0.1:{bound},CONTROLLER://127.0.0.1:{{controller}}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire},ASTRAY://127.0.0.1:{gone}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,ASTRAY:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "group.min.session.timeout.ms": "10000",
        "transaction.max.timeout.ms": "5000",
    }
    with KafkaServer(tmp_path_factory.mktemp("kafka-short"), config=config) as server:
        server.wire_port = wire
        yield server, bound, gone


async def is_reported_by_both(place: Place, *texts: str) -> None:
    """See that `check` fails over it and `run` waits, at ERROR, and that neither says anything besides."""
    code, output = await place.run("check")
    assert code == 1
    (failed,) = [line for line in output if line.startswith("FAIL")]
    assert failed.startswith("FAIL  broker: ")
    for one in texts:
        assert one in failed
    assert "Start Kafka there" not in failed
    gateway = await place.gateway()
    await gateway.wait_for_log("broker unusable: action required")
    lines = [line for line in gateway.lines() if line["level"] == "error"]
    assert {line["event"] for line in lines} == {"broker unusable: action required"}
    for one in texts:
        assert one in lines[0]["error"]
    assert "Future exception was never retrieved" not in gateway.stderr + "".join(output)


async def test_times_that_the_brokers_do_not_give(tmp_path: Path, short: tuple[KafkaServer, int, int]) -> None:
    async with made(tmp_path, short[0]) as place:
        await is_reported_by_both(place, TIMES.format(at=place.wire.port))


async def test_an_advertised_address_that_leads_nowhere(tmp_path: Path, short: tuple[KafkaServer, int, int]) -> None:
    server, bound, gone = short
    async with made(tmp_path, server) as place:
        place.config.write_text(place.config.read_text().replace(f":{place.wire.port}", f":{bound}"))
        await is_reported_by_both(place, NOWHERE.format(gone=gone))


async def test_settings_of_three_brokers_on_one(tmp_path: Path) -> None:
    kafka_server.require_java()
    wire = free_port()
    config = {
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire}",
        "offsets.topic.replication.factor": "3",
        "transaction.state.log.replication.factor": "3",
    }
    with KafkaServer(tmp_path / "kafka", config=config) as server:
        server.wire_port = wire
        async with made(tmp_path, server, broker=", commit_timeout: 3") as place:
            code, output = await place.run("check")
            assert code == 1
            (failed,) = [line for line in output if line.startswith("FAIL")]
            for text in NO_COORDINATORS:
                assert text in failed
            gateway = await place.gateway()
            (warning, _) = [
                await gateway.wait_for_log(f".*no coordinator of {one}.*") for one in ("groups", "transactions")
            ]
            assert '"level": "warning"' in warning[0]
