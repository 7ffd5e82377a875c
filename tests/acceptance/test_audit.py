"""Who changed what, on real brokers: in the audit topic, in the record of the change and in the owner's log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import nats
import pytest
from confluent_kafka import Consumer, TopicPartition
from nats.js.errors import NotFoundError

from tests.support import kafka_server
from tests.support.control_client import Control, child, control_of, new_token
from tests.support.gateway_process import House, house, until
from tests.support.kafka_cluster import made
from tests.support.kafka_server import KafkaServer
from tests.support.metrics_client import metrics_of

TARGET = "/v1/accounts/account-1/target-state"
STREAM = "mesolive-gateway-audit"
LOST = "audit records lost: the control plane ended before it stored them"


def lines(control: Control, event: str) -> list[dict[str, Any]]:
    logged = [json.loads(line) for line in control.running.stderr.splitlines() if line.startswith("{")]
    return [line for line in logged if line["event"] == event]


async def recorded(here: House) -> list[dict[str, Any]]:
    """Read the whole audit trail."""
    client = await nats.connect(here.server.url, allow_reconnect=False)
    try:
        stream = client.jetstream()
        try:
            count = (await stream.stream_info(STREAM)).state.last_seq
            messages = [await stream.get_msg(STREAM, seq) for seq in range(1, count + 1)]
        except NotFoundError:
            return []
        return [json.loads(message.data or b"") for message in messages]
    finally:
        await client.close()


async def test_a_change_names_its_author_in_topic_record_and_log_of_the_owner(tmp_path: Path) -> None:
    otto, line = await new_token(tmp_path, "otto", "operator")
    (tmp_path / "tokens").write_text(line + "\n")
    async with house(tmp_path, accounts=1) as here:
        here.config.write_text(here.config.read_text() + f"control: {{tokens_file: '{tmp_path / 'tokens'}'}}\n")
        control = await control_of(await here.gateway(), here.http, otto)
        await control.ready()
        await control.live(here.accounts)
        answer = await control.ask(f"PUT {TARGET}", json={"state": "paused"}, X_Request_Id="ticket-4711")
        assert answer.status == 200, answer
        own = answer.headers["X-Request-Id"]
        (record,) = await recorded(here)
        assert (record["by"], record["action"], record["request_id"]) == ("otto", "target-state", own)
        assert (record["before"], record["after"]) == ({"state": "running"}, {"state": "paused"})
        assert (record["client_request_id"], record["revision"]) == ("ticket-4711", answer.body["revision"])
        await until(lambda: _is_logged(control, "otto", own), "the owner says whom it obeys")

        client = await nats.connect(here.server.url, allow_reconnect=False)
        subject = "mesolive.gateway.control.state.desired.account.account-1"
        kept = await client.jetstream().get_last_msg("mesolive-gateway-control", subject)
        desired = json.loads(kept.data or b"")
        assert (desired["written"]["by"], desired["written"]["request_id"]) == ("otto", own)
        await client.publish(subject, json.dumps(desired | {"state": "running"}).encode())  # by no API
        await client.flush()
        await client.close()
        await until(lambda: _is_logged(control, "unknown writer", None), "the owner says that it does not know whom")
        assert len(await recorded(here)) == 1


async def _is_logged(control: Control, by: str, request_id: str | None) -> bool:
    applied = lines(control, "applied a change") + lines(control, "applied a change that did not come through the API")
    return (by, request_id) in {(one["by"], one.get("request_id")) for one in applied}


async def test_a_record_that_cannot_be_written_is_told_and_written_once_it_can(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1) as here:
        control = await control_of(await here.gateway(), here.http)
        await control.ready()
        await control.live(here.accounts)
        metrics = await metrics_of(control.running, here.http)
        client = await nats.connect(here.server.url, allow_reconnect=False)
        await client.jetstream().delete_stream(STREAM)
        answer = await control.ask(f"PUT {TARGET}", json={"state": "paused"})
        assert answer.status in {200, 202}, answer
        assert lines(control, "audit record not stored yet, retrying")

        await metrics.until(lambda now: bool(now["audit_failures_total",] and now["audit_waiting",]), "it is counted")
        await client.jetstream().add_stream(name=STREAM, subjects=["mesolive.gateway.audit"])
        await client.close()

        async def is_recorded() -> bool:
            return [one["action"] for one in await recorded(here)] == ["target-state"]

        await until(is_recorded, "it is recorded")

        await metrics.until(lambda now: not now["audit_waiting",], "nothing waits")


async def test_records_that_are_lost_with_a_killed_control_plane_are_an_error(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1) as here:
        control = await control_of(await here.gateway(), here.http)
        await control.ready()
        await control.live(here.accounts)
        metrics = await metrics_of(control.running, here.http)
        client = await nats.connect(here.server.url, allow_reconnect=False)
        await client.jetstream().delete_stream(STREAM)
        await client.close()
        await control.ask(f"PUT {TARGET}", json={"state": "paused"})
        await metrics.until(lambda now: now["audit_waiting",] == 1, "the record waits")
        apart = child(control.running.popen.pid, "gateway.bootstrap.control_main")
        os.kill(apart, signal.SIGKILL)
        await until(lambda: bool(lines(control, LOST)), "the gateway says what was lost")
        assert lines(control, LOST)[0]["changes"] == 1
        failures = (await metrics.scrape())["audit_failures_total",]
        assert failures > 0, "the counts of the process that was killed stay"


async def test_what_cannot_be_recorded_before_the_gateway_ends_is_in_its_log(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1) as here:
        control = await control_of(await here.gateway(), here.http)
        await control.ready()
        await control.live(here.accounts)
        client = await nats.connect(here.server.url, allow_reconnect=False)
        await client.jetstream().delete_stream(STREAM)
        await client.close()
        answer = await control.ask(f"PUT {TARGET}", json={"state": "paused"})
        assert answer.status in {200, 202}, answer
        control.running.signal(signal.SIGTERM)
        assert await control.running.ended(20) == 0
        (lost,) = lines(control, "audit record lost")
        assert lost["record"]["request_id"] == answer.headers["X-Request-Id"]


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401 - a generator
    kafka_server.require_java()
    wire = kafka_server.free_port()
    config = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire}"}
    with KafkaServer(tmp_path_factory.mktemp("kafka"), config=config) as started:
        started.wire_port = wire
        yield started


def _records(address: str, topic: str) -> list[dict[str, Any]]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "auditor", "enable.auto.commit": False})
    place = TopicPartition(topic, 0, 0)
    _, end = consumer.get_watermark_offsets(place, timeout=10)
    consumer.assign([place])
    found = []
    while len(found) < end:
        message = consumer.poll(10)
        assert message is not None
        found.append(json.loads(message.value() or b""))
    consumer.close()
    return found


async def test_changes_are_recorded_on_kafka(kafka: KafkaServer, tmp_path: Path) -> None:
    async with made(tmp_path, kafka, accounts=("main", "other")) as place:
        control = await control_of(await place.gateway(), place.http)
        await control.ready()
        await control.live(place.accounts)
        for name in place.accounts:
            answer = await control.ask(f"PUT /v1/accounts/{name}/subscription", json={"strategies": [1]})
            assert answer.status in {200, 202}, answer
        found = await asyncio.to_thread(_records, place.inner, f"{place.prefix}.gateway.audit")
        assert [(one["account"], one["after"], one["outcome"]) for one in found] == [
            (name, {"strategies": [1]}, "made") for name in place.accounts
        ]
