"""Traces of a gateway that runs, as a collector receives them; and what a collector that fails does to events."""

from __future__ import annotations

import re
import signal
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import kafka_server
from tests.support.certificates import Authority
from tests.support.checker import Found
from tests.support.control_client import control_of
from tests.support.gateway_process import Process, until
from tests.support.gateway_process import house as nats_house
from tests.support.kafka_cluster import made
from tests.support.kafka_server import KafkaServer
from tests.support.otlp_collector import Received, Receiver, receiver
from tests.support.replay_client import asked, ended
from tests.support.sockets import free_port

SENDER: Final = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
TRACEPARENT: Final = f"00-{SENDER[0]}-{SENDER[1]}-01"


def traceparents(log: Sequence[Found]) -> dict[tuple[str, str], Found]:
    """Return the messages that carry a trace, by trace and span."""
    found = {}
    for message in log:
        text = message.headers.get("traceparent")
        assert text == message.headers.get("ce-traceparent")
        if text is not None:
            parts = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0[13]", text)
            assert parts is not None, text
            found[parts[1], parts[2]] = message
    return found


def linked(sends: Sequence[Received]) -> list[tuple[str, str]]:
    return sorted(link for send in sends for link in send.links)


def like(**attributes: Any) -> Callable[[Received], bool]:  # noqa: ANN401 - values of attributes
    """Return spans that say this; `_` stands for a dot."""
    wanted = {name.replace("_", "."): value for name, value in attributes.items()}
    return lambda span: all(span.attributes.get(name) == value for name, value in wanted.items())


async def test_each_message_leads_to_its_span_and_to_the_commit_that_it_was_in(tmp_path: Path) -> None:
    with receiver() as collector:
        async with nats_house(tmp_path, accounts=["alpha", "beta"], prefill=150) as here:
            gateway = await here.gateway(collector.env())
            await gateway.wait_for_log('"state": "live"')
            await here.emit(count=50, rate=500)
            await here.settled(200)
            await _ends(gateway)
            log = await here.log()

    messages = traceparents(log)
    assert len(messages) == len(log) == 2 * 200  # each has its own
    creates, sends = collector.named("create"), collector.named("send")
    assert sorted(span.place for span in creates) == sorted(messages) == linked(sends)
    for create in creates:
        message = messages[create.place]
        assert (create.kind, create.parent) == ("producer", "")
        assert create.attributes["messaging.system"] == "nats"
        assert (
            create.attributes["messaging.operation.type"] == create.attributes["messaging.operation.name"] == "create"
        )
        assert create.attributes["messaging.destination.name"] == message.subject
        assert create.name == "create " + re.sub(r"\.(alpha|beta)$", ".*", message.subject)
        assert create.attributes["messaging.message.id"] == message.headers["ce-id"]
    by_place = {create.place: create for create in creates}
    for send in (one for one in sends if one.links):
        assert (send.kind, send.parent, send.is_failed) == ("client", "", False)
        assert (
            send.attributes["messaging.batch.message_count"] == send.attributes["mesolive.sampled"] == len(send.links)
        )
        assert 0 <= send.attributes["mesolive.shard"] < 16
        assert all(by_place[link].end <= send.start < send.end for link in send.links)
    assert {span.schema for span in collector.spans} == {"https://opentelemetry.io/schemas/1.44.0"}
    assert {span.resource["service.name"] for span in collector.spans} == {"mesolive-gateway"}


async def test_a_catch_up_belongs_to_the_connect_before_it_and_the_log_says_so(tmp_path: Path) -> None:
    with receiver() as collector:
        async with nats_house(tmp_path, accounts=["alpha", "beta"], prefill=150) as here:
            gateway = await here.gateway(collector.env(0))
            await here.settled(150)
            await _ends(gateway)
            lines = gateway.lines()
    for account in here.accounts:
        (connect,) = of_account(collector, "connect", account)
        assert (connect.kind, connect.parent, connect.is_failed) == ("client", "", False)
        assert connect.events == ("negotiate", "upgrade", "handshake")
        assert connect.attributes["server.address"] == "127.0.0.1"
        assert here.hub.endswith(f":{connect.attributes['server.port']}")
        (catch_up,) = of_account(collector, "catch-up", account)
        assert (catch_up.trace, catch_up.parent) == connect.place
        assert connect.end <= catch_up.start < catch_up.end
        assert catch_up.attributes["mesolive.outcome"] == "live"
        assert catch_up.attributes["mesolive.events"] >= 150
        assert catch_up.attributes["mesolive.pages"] >= 1
        (logged,) = [one for one in lines if one.get("account") == account and one.get("state") == "live"]
        assert (logged["trace_id"], logged["span_id"]) == catch_up.place
    assert [one for one in lines if one["event"] == "gateway started" and "trace_id" in one] == []


async def test_requests_continue_the_trace_of_who_asks_and_a_replay_has_a_span(tmp_path: Path) -> None:
    with receiver() as collector:
        async with nats_house(tmp_path, accounts=["alpha"], prefill=200) as here:
            gateway = await here.gateway(collector.env())
            control = await control_of(gateway, here.http)
            await control.ready()
            await control.live(here.accounts)
            await here.settled(200)
            replay = await asked(control, "alpha", since=100, until=150)
            await ended(control, replay)
            secretive = "GET /v1/accounts?limit=1000&access_token=a-secret"
            assert (await control.ask(secretive, traceparent=TRACEPARENT)).status == 422
            assert (await control.ask("GET /v1/a-secret", traceparent=TRACEPARENT)).status == 404
            await _ends(gateway)
            log = await here.log()

    (replayed,) = collector.named("replay")
    assert like(mesolive_replay=replay, mesolive_outcome="completed", mesolive_published=50)(replayed)
    again = [place for place, message in traceparents(log).items() if message.headers.get("ce-replayid") == replay]
    assert sorted(span.place for span in collector.named("create") if like(mesolive_replay=replay)(span)) == sorted(
        again
    )
    assert len(again) == 50

    refused, unknown = [span for span in collector.spans if span.trace == SENDER[0]]
    assert (refused.name, refused.kind, refused.parent) == ("GET /v1/accounts", "server", SENDER[1])
    assert (refused.attributes["http.route"], refused.attributes["http.response.status_code"]) == ("/v1/accounts", 422)
    assert (unknown.name, unknown.attributes["http.response.status_code"]) == ("GET", 404)
    (posted,) = collector.named("POST")
    assert posted.name == "POST /v1/accounts/{account}/replays"
    assert (posted.attributes["http.response.status_code"], posted.parent) == (202, "")
    roles = {span.resource["mesolive.role"]: span.resource["service.instance.id"] for span in collector.spans}
    assert roles.keys() == {"replica", "control"}
    assert len(set(roles.values())) == 2
    assert not [span for span in collector.spans if re.search("key-of|a-secret|access_token", repr(span))]


async def _ends(gateway: Process) -> None:
    """Ask a gateway to end; what it has of spans it sends before."""
    gateway.signal(signal.SIGTERM)
    assert await gateway.ended(10) == 0


def of_account(collector: Receiver, name: str, account: str) -> list[Received]:
    return [span for span in collector.named(name) if span.attributes["mesolive.account"] == account]


async def test_a_part_of_the_messages_is_sampled_and_the_others_carry_nothing(tmp_path: Path) -> None:
    with receiver() as collector:
        async with nats_house(tmp_path, accounts=2, prefill=1000) as here:
            gateway = await here.gateway(collector.env(0.2))
            await here.settled(1000)
            await _ends(gateway)
            log, verdict = await here.log(), await here.verdict()
    messages = traceparents(log)
    assert 280 < len(messages) < 520  # of 2000, four standard deviations around 400 are 72; and catching up is in it
    assert (
        sorted(span.place for span in collector.named("create")) == sorted(messages) == linked(collector.named("send"))
    )
    assert verdict.faults == {}


async def test_with_a_ratio_of_nothing_only_what_is_rare_is_traced(tmp_path: Path) -> None:
    with receiver() as collector:
        async with nats_house(tmp_path, accounts=1, prefill=300) as here:
            gateway = await here.gateway(collector.env(0))
            control = await control_of(gateway, here.http)
            await control.ready()
            await here.settled(300)
            assert (await control.ask("GET /v1/accounts")).status == 200
            assert (await control.ask("GET /v1/accounts", traceparent=TRACEPARENT[:-2] + "00")).status == 200
            await _ends(gateway)
            log = await here.log()
    assert traceparents(log) == {}
    assert sorted(span.name for span in collector.spans) == ["catch-up", "connect"]


async def test_a_connect_that_fails_says_why_and_so_does_the_log_under_its_ids(tmp_path: Path) -> None:
    with receiver() as collector:
        async with nats_house(tmp_path, accounts=["alpha"]) as here:
            (tmp_path / "accounts" / "alpha").write_text("a-wrong-secret")
            gateway = await here.gateway(collector.env())
            (connect,) = await collector.has("connect")
            await gateway.wait_for_log("hub rejected the account's key")
            (line,) = [one for one in gateway.lines() if one["event"] == "hub rejected the account's key"]
    assert connect.is_failed
    assert connect.attributes["error.type"] == "unauthorized"
    assert connect.events == ()
    assert "401" in connect.description
    assert (line["trace_id"], line["span_id"]) == connect.place
    assert "a-wrong-secret" not in repr(connect)


async def test_on_kafka_each_message_leads_to_its_span_and_its_commit(tmp_path: Path) -> None:
    kafka_server.require_java()
    wire = free_port()
    config = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire}"}
    with KafkaServer(tmp_path / "kafka", config=config) as server, receiver() as collector:
        server.wire_port = wire
        (tmp_path / "scene").mkdir()
        async with made(tmp_path / "scene", server, prefill=100) as place:
            gateway = await place.gateway(collector.env())
            await place.settled(100)
            await _ends(gateway)
            log, verdict = await place.log(), await place.verdict()
            prefix = place.prefix
    messages = traceparents(log)
    assert len(messages) == len(log) == 300
    assert verdict.faults == {}
    creates = collector.named("create")
    assert sorted(span.place for span in creates) == sorted(messages) == linked(collector.named("send"))
    for create in creates:
        message = messages[create.place]
        kind = message.subject.split(".")[2]
        assert create.attributes["messaging.system"] == "kafka"
        assert create.attributes["messaging.destination.name"] == f"{prefix}.{kind}.v1"
        assert create.name == f"create {prefix}.{kind}.v1"
        assert create.attributes["messaging.kafka.message.key"] == message.headers["Gateway-Key"]


# A collector that fails ---------------------------------------------------------------------------------


def status(running: Process, name: str) -> int:
    """Return a figure of the kernel's of a process: threads, or KB of memory."""
    text = Path(f"/proc/{running.popen.pid}/status").read_text("ascii")
    found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def trace_lines(running: Process) -> list[dict[str, Any]]:
    """Return the lines about traces of the replica's process."""
    return [line for line in running.lines() if "trace" in line["event"] or "opentelemetry" in str(line)]


LONG: Final = [pytest.param(mood, marks=pytest.mark.long) for mood in ("resets", "is away")]


@pytest.mark.parametrize("mood", ["refuses", "hangs", *LONG])
async def test_a_collector_that_fails_delays_nothing_and_nothing_grows(tmp_path: Path, mood: Any) -> None:  # noqa: ANN401
    with receiver("takes" if mood == "is away" else mood) as collector:
        env = collector.env() if mood != "is away" else {**collector.env(), "GATEWAY_TRACING__ENDPOINT": _nowhere()}
        async with nats_house(tmp_path, accounts=2) as here:
            gateway = await here.gateway(env)
            await here.emit(count=1500, rate=1500)
            await here.settled(1500)
            if mood != "is away":
                await until(lambda: collector.requests > 0, "the collector is asked")
            threads, memory = status(gateway, "Threads"), status(gateway, "VmRSS")
            began = time.monotonic()
            await here.emit(count=4500, rate=1500)
            await here.settled(6000)
            took = time.monotonic() - began
            await gateway.wait_for_log("traces lost, events are not affected")
            assert status(gateway, "Threads") <= threads
            assert status(gateway, "VmRSS") - memory < 40_000
            asked_at = time.monotonic()
            await _ends(gateway)
            assert time.monotonic() - asked_at < 8
            verdict = await here.verdict()
            lines = trace_lines(gateway)
    assert verdict.faults == {}
    assert (verdict.emitted, verdict.found, verdict.late) == (12_000, 12_000, 0)
    assert took < 30  # 3 s of events, and the grace and the audits until they are final
    assert len(lines) <= 2  # each process says it once
    assert all(line["error"] and line["level"] == "warning" for line in lines)


def _nowhere() -> str:
    return f"http://127.0.0.1:{free_port()}"


def created(spans: list[Received]) -> set[str]:
    """Return the ids of the spans of events that were made into messages."""
    return {span.id for span in [*spans] if span.name.startswith("create")}


async def test_a_collector_that_comes_back_gets_spans_and_the_log_counts_losses(tmp_path: Path) -> None:
    with receiver("refuses") as collector:
        async with nats_house(tmp_path, accounts=1, prefill=200) as here:
            gateway = await here.gateway(collector.env())
            await here.settled(200)
            await gateway.wait_for_log("traces lost, events are not affected")
            await until(lambda: len(created(collector.refused)) >= 200, "all that was published is refused")
            collector.change("takes")

            async def is_over() -> bool:
                await here.emit(count=1, rate=100)
                return "trace export recovered" in gateway.stderr

            await until(is_over, "it says that traces are exported again")
            first, last = trace_lines(gateway)
            await until(lambda: bool(collector.named("create")), "spans come")
    assert "Service Unavailable" in first["error"]
    assert last["lost"] >= len(created(collector.refused) - created(collector.spans)) > 0
    assert (first["level"], last["level"]) == ("warning", "info")


async def test_the_collector_gets_headers_of_a_file_read_anew_and_never_logged(tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    headers.write_text("# for the collector\nAuthorization: Bearer first-secret\nX-Scope-OrgID: desk\n")
    with receiver() as collector:
        async with nats_house(tmp_path, accounts=1, prefill=10) as here:
            env = {**collector.env(), "GATEWAY_TRACING__HEADERS_FILE": str(headers), "GATEWAY_LOG__LEVEL": "debug"}
            gateway = await here.gateway(env)
            await collector.has("create", count=10)
            headers.write_text("Authorization: Bearer second-secret\n")
            await here.emit(count=5, rate=100)
            await collector.has("create", count=15)
            headers.write_text("Authorization: Bearer third-secret\x07\n")
            await here.emit(count=5, rate=100)
            await gateway.wait_for_log("traces lost, events are not affected")
            await here.settled(20)
            logged = gateway.stderr
    assert (collector.headers[0]["Authorization"], collector.headers[0]["X-Scope-OrgID"]) == (
        "Bearer first-secret",
        "desk",
    )
    assert collector.headers[-1]["Authorization"] == "Bearer second-secret"
    assert "line 1 is no header" in logged
    assert "-secret" not in logged


async def test_a_collector_of_a_private_ca_is_trusted_by_its_file_alone(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.certificate("collector")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with receiver(tls=context) as collector:
        async with nats_house(tmp_path, accounts=1, prefill=10) as here:
            stranger = await here.gateway(collector.env())
            await stranger.wait_for_log("traces lost, events are not affected")
            stranger.signal(signal.SIGTERM)
            assert await stranger.ended(10) == 0
            assert collector.spans == []
            await here.gateway({**collector.env(), "GATEWAY_TRACING__CA_FILE": str(authority.file)})
            await collector.has("connect")
    assert "certificate" in trace_lines(stranger)[0]["error"].lower()
