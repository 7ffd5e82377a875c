"""Who is refused is counted, and told in a bounded number of lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.control.app import create_app
from gateway.control.auditing import Auditing
from gateway.control.auth.principals import Role
from gateway.control.auth.token_lines import line_of
from gateway.control.auth.tokens import Tokens
from gateway.control.deployment_view import DeploymentView
from gateway.control.listener.refused import RefusedRequests
from gateway.control.listener.server import serving
from gateway.control.listener.sockets import bind, url_of
from gateway.control.middleware import AdmissionMiddleware
from gateway.control.tracing_middleware import TracingMiddleware
from gateway.telemetry.control_counts import ControlCounters, decode_counts
from gateway.telemetry.span import NO_SPAN, Span
from gateway.telemetry.tracer import Tracer
from tests.unit.control.conftest import Api

FLOOD = 300


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def guarded(api: Api, file: Path) -> tuple[AdmissionMiddleware, ControlCounters, str]:
    """Serve the same API once more, with tokens; give its gate, its counts and its URL."""
    file.write_text("\n".join([line_of("vera", Role.VIEWER, "v"), line_of("otto", Role.OPERATOR, "o"), ""]))
    await api.replica()
    listener = bind("control", "127.0.0.1", 0)
    counts = ControlCounters()
    gate = AdmissionMiddleware(_app_of(api), Tokens(file), counts=counts)
    await api.stack.enter_async_context(serving(gate, listener))
    api.urls.append(url_of(listener))
    return gate, counts, url_of(listener)


def _app_of(api: Api) -> Any:  # noqa: ANN401 - an ASGI application
    auditing = Auditing(api.counts, api.audit)
    return create_app(DeploymentView(shards=4, view=api.views[0], store=api.store, auditing=auditing))


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_flood_of_unknown_tokens_is_counted_and_is_two_lines(api: Api, tokens_file: Path, method: str) -> None:
    gate, counts, url = await guarded(api, tokens_file)
    with capture_logs() as logs:
        for number in range(FLOOD):
            headers = {"Authorization": f"Bearer wrong{number}", "X-Request-Id": "a" * 128}
            async with api.http.request(method, f"{url}/v1/accounts/main/reconnect", headers=headers) as answer:
                assert answer.status == 401
        gate.refused.sum_up()
    assert counts.requests == {"anonymous": {"401": FLOOD}}
    assert counts.refused == {"unauthenticated": FLOOD}
    first, together = logs
    assert (first["log_level"], first["address"], first["reason"]) == ("warning", "127.0.0.1", "unauthenticated")
    assert (together["requests"], together["unauthenticated"], together["requests_of_most"]) == (FLOOD,) * 3


async def test_a_flood_of_changes_that_a_viewer_may_not_make_is_told_in_part(api: Api, tokens_file: Path) -> None:
    gate, counts, url = await guarded(api, tokens_file)
    with capture_logs() as logs:
        for _ in range(FLOOD):
            headers = {"Authorization": "Bearer v"}
            async with api.http.post(f"{url}/v1/accounts/main/reconnect", headers=headers) as answer:
                assert answer.status == 403
        gate.refused.sum_up()
    assert counts.requests == {"viewer": {"403": FLOOD}}
    assert counts.refused == {"forbidden": FLOOD}
    assert len(logs) == 61
    assert (logs[-1]["who"], logs[-1]["outcome"], logs[-1]["requests"]) == ("vera", "refused", FLOOD - 60)


async def test_a_line_is_short_whatever_was_sent_as_the_method(api: Api, tokens_file: Path) -> None:
    _, _, url = await guarded(api, tokens_file)
    headers = {"Authorization": "Bearer v", "X-Request-Id": "i" * 500}
    with capture_logs() as logs:
        async with api.http.request("A" * 20_000, f"{url}/{'p' * 9000}", headers=headers) as answer:
            assert answer.status == 403
    assert [len(str(line)) < 1000 for line in logs] == [True]


async def test_requests_are_counted_by_role_and_status(api: Api, tokens_file: Path) -> None:
    _, counts, url = await guarded(api, tokens_file)
    for token, path in (("v", "accounts"), ("v", "accounts"), ("o", "accounts/nobody"), ("x", "accounts")):
        async with api.http.get(f"{url}/v1/{path}", headers={"Authorization": f"Bearer {token}"}):
            pass
    async with api.http.get(f"{url}/openapi.json"):
        pass
    assert counts.requests == {
        "viewer": {"200": 2},
        "operator": {"404": 1},
        "anonymous": {"401": 2},
    }


def test_from_however_many_addresses_the_lines_and_the_memory_are_bounded() -> None:
    clock = Clock()
    refused = RefusedRequests(clock)
    with capture_logs() as logs:
        for minute in range(3):
            for number in range(5000):
                refused.on_anonymous("unauthenticated", f"10.0.{number % 250}.{number // 250}")
            clock.seconds += 60
            refused.tick()
            assert len(logs) == 11 * (minute + 1)
    together = logs[-1]
    assert (together["requests"], together["addresses"], together["from_more_addresses"]) == (5000, 1000, 4000)


def test_addresses_of_one_ipv6_network_are_one() -> None:
    refused = RefusedRequests(Clock())
    with capture_logs() as logs:
        for number in range(1, 1000):
            refused.on_anonymous("unauthenticated", f"2001:db8:1:2:{number:x}::1")
        refused.on_anonymous("origin-not-allowed", "::ffff:192.0.2.1")
        refused.on_anonymous("origin-not-allowed", None)
        refused.sum_up()
    assert [line["address"] for line in logs[:-1]] == ["2001:db8:1:2::/64", "192.0.2.1", "unknown"]
    assert (logs[-1]["unauthenticated"], logs[-1]["origin-not-allowed"]) == (999, 2)


def test_where_each_has_a_line_nothing_is_summed_up_and_quiet_is_silent() -> None:
    clock = Clock()
    refused = RefusedRequests(clock)
    with capture_logs() as logs:
        refused.on_anonymous("unauthenticated", "192.0.2.1")
        for _ in range(100):
            clock.seconds += 60
            refused.tick()
    assert len(logs) == 1


def test_changes_that_are_made_have_lines_of_their_own_for_long() -> None:
    clock = Clock()
    refused = RefusedRequests(clock)
    assert all(refused.is_line("otto", is_made=True) for _ in range(600))
    assert not refused.is_line("otto", is_made=True)
    assert refused.is_line("vera", is_made=True)
    assert refused.is_line("otto", is_made=False)
    clock.seconds += 60
    assert refused.is_line("otto", is_made=True)


def test_counts_go_on_over_processes_and_through_the_pipe() -> None:
    first, second = ControlCounters(), ControlCounters()
    for counts, role in ((first, "viewer"), (first, "viewer"), (second, "viewer"), (second, "operator")):
        counts.on_answer(role, 200)
        counts.on_refusal("busy")
    first.tokens_file_problems = 3
    together = decode_counts(second.encode()).after(decode_counts(first.encode()))
    assert together.requests == {"viewer": {"200": 3}, "operator": {"200": 1}}
    assert (together.refused, together.tokens_file_problems) == ({"busy": 4}, 0)
    with pytest.raises(ValueError, match="JSON"):
        decode_counts(b"hello\n")


class Sampled(Tracer):
    """Notes what the sender said that a request's trace is."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Mapping[str, str]] = []

    def request(self, method: str, headers: Mapping[str, str], about: Any) -> Span:  # noqa: ANN401, ARG002
        self.sent.append(headers)
        return NO_SPAN


@pytest.mark.parametrize(("token", "is_obeyed"), [("v", True), ("o", True), ("x", False), ("", False)])
async def test_only_who_is_known_says_which_trace_a_request_belongs_to(
    api: Api, tokens_file: Path, token: str, is_obeyed: bool
) -> None:
    gate, _, _ = await guarded(api, tokens_file)
    tracer = Sampled()
    listener = bind("control", "127.0.0.1", 0)
    await api.stack.enter_async_context(serving(TracingMiddleware(gate, tracer, gate.is_known), listener))
    headers = {"Authorization": f"Bearer {token}", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "a=b"}
    for path in ("/v1/accounts", "/openapi.json"):
        async with api.http.get(url_of(listener) + path, headers=headers):
            pass
    assert [("traceparent" in sent, "tracestate" in sent) for sent in tracer.sent] == [(is_obeyed, is_obeyed)] * 2
