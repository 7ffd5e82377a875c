"""What every request passes first: tokens and roles, limits, headers, and an end that is a problem."""

from __future__ import annotations

import asyncio
import hashlib
import io
import socket
from pathlib import Path

import aiohttp
import pytest
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from gateway.control.auth.principals import Role
from gateway.control.auth.token_lines import line_of
from gateway.control.auth.tokens import Tokens, new_token
from gateway.control.listener.server import serving
from gateway.control.listener.sockets import address_of, bind
from gateway.control.middleware import BODY, AdmissionMiddleware, RequestLimits
from gateway.errors import ConfigurationError, Unavailable
from tests.unit.control.conftest import Api

TARGET = "/v1/accounts/main/target-state"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_tokens_and_roles(api: Api, tokens_file: Path) -> None:
    viewer, operator = new_token(), new_token()
    lines = [line_of("vera", Role.VIEWER, viewer), "# who may change", "", line_of("otto", Role.OPERATOR, operator)]
    tokens_file.write_text("\n".join([*lines, ""]))
    await api.replica(Tokens(tokens_file))

    async def status(request: str, headers: dict[str, str]) -> int:
        answer = await api.ask(request, at=1, headers=headers, json={"state": "running"} if "PUT" in request else None)
        assert answer.status < 400 or "HEAD" in request or answer.problem
        return answer.status

    for headers in (
        {},
        bearer("x"),
        bearer(viewer + "x"),
        bearer(""),
        {"Authorization": f"Basic {viewer}"},
        {"Authorization": "Bearer"},
        {"Authorization": "\xff"},
        bearer(hashlib.sha256(viewer.encode()).hexdigest()),
    ):
        for request in ("GET /v1/accounts", f"PUT {TARGET}", "GET /nowhere"):
            assert await status(request, headers) == 401
    unknown = await api.ask("GET /v1/accounts", at=1)
    assert unknown.headers["WWW-Authenticate"].startswith("Bearer")
    assert await status("GET /openapi.json", {}) == 401
    assert await status("GET /openapi.json", bearer(viewer)) == 200
    assert await status("HEAD /v1/accounts", {}) == 401
    assert await status("HEAD /v1/accounts", bearer(viewer)) == 200
    assert await status("GET /v1/accounts", bearer(viewer)) == 200
    assert await status(f"PUT {TARGET}", bearer(viewer)) == 403
    assert await status("POST /v1/accounts/main/reconnect", bearer(viewer)) == 403
    assert await status("GET /v1/accounts", bearer(operator)) == 200
    assert await status(f"PUT {TARGET}", bearer(operator)) == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": "localhost:9"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": "[::"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "http://evil.example@localhost"}, 403),
        ({"Origin": "chrome-extension://localhost"}, 403),
        ({"Host": "localhost:9", "Origin": "http://localhost:9"}, 200),
        ({"Host": "localhost:9", "Origin": "http://localhost"}, 403),
        ({"Host": "localhost:9", "Origin": "https://localhost:9"}, 403),
        ({"Host": "localhost:9", "Origin": "http://127.0.0.1:9"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
async def test_without_tokens_no_web_page_can_use_the_browser_of_this_machine(
    api: Api, headers: dict[str, str], status: int
) -> None:
    assert (await api.ask("GET /v1/accounts", headers=headers)).status == status
    assert (await api.ask("POST /v1/accounts/main/reconnect", headers=headers)).status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Content-Type": "text/plain"}, 403),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 403),
        ({"Content-Type": "multipart/form-data; boundary=application/json"}, 403),
        ({"Cookie": "a=b", "Accept": "application/json"}, 403),
        ({"Content-Type": "application/json"}, 200),
        ({"Content-Type": "Application/JSON; charset=utf-8"}, 200),
        ({"Idempotency-Key": "a"}, 200),
        ({"X-Request-Id": "a"}, 200),
        ({"Authorization": "Bearer a"}, 200),
    ],
)
async def test_post_without_tokens_needs_a_header_that_no_form_can_send(
    api: Api, headers: dict[str, str], status: int
) -> None:
    url = f"{api.urls[0]}/v1/accounts/main/reconnect"
    skipped = () if "Content-Type" in headers else ("Content-Type",)
    async with aiohttp.ClientSession() as http, http.post(url, headers=headers, skip_auto_headers=skipped) as answer:
        assert answer.status == status
        assert status == 200 or (await answer.json(content_type=None))["type"].endswith(":origin-not-allowed")


async def test_methods_that_no_form_can_send_need_no_header(api: Api) -> None:
    url = f"{api.urls[0]}/v1/accounts/main/subscription"
    async with aiohttp.ClientSession() as http, http.delete(url) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_large_body_is_refused_whether_its_size_is_told_or_not(api: Api, is_chunked: bool) -> None:
    async def chunks() -> object:
        for _ in range(10):
            yield b" " * 2**20

    answer = await api.ask(
        f"PUT {TARGET}",
        data=chunks() if is_chunked else io.BytesIO(b" " * 10 * 2**20),
        headers={"Content-Type": "application/json"},
    )
    assert (answer.status, answer.problem) == (413, "too-large")
    just = b'{"state":"running"}'.ljust(BODY)
    headers = {"Content-Type": "application/json"}
    assert (await api.ask(f"PUT {TARGET}", data=just, headers=headers)).status == 200
    assert (await api.ask(f"PUT {TARGET}", data=just + b" ", headers=headers)).status == 413


async def test_too_many_at_once_are_told_to_come_again(api: Api) -> None:
    await api.replica(limits=RequestLimits(at_once=2))
    api.owning = False
    waiting = [asyncio.create_task(api.ask("POST /v1/accounts/main/reconnect", at=1)) for _ in range(2)]
    await asyncio.sleep(0.3)
    answer = await api.ask("GET /v1/accounts", at=1)
    assert (answer.status, answer.problem, answer.headers["Retry-After"]) == (503, "busy", "1")
    for one in await asyncio.gather(*waiting):
        assert one.status == 202
    assert (await api.ask("GET /v1/accounts", at=1)).status == 200


async def test_each_token_has_its_share_and_some_requests_are_kept_for_operators(api: Api, tokens_file: Path) -> None:
    viewers, operator = [new_token() for _ in range(3)], new_token()
    lines = [line_of(f"vera-{number}", Role.VIEWER, token) for number, token in enumerate(viewers)]
    tokens_file.write_text("\n".join([*lines, line_of("otto", Role.OPERATOR, operator), ""]))
    await api.replica(Tokens(tokens_file), RequestLimits(at_once=4, each=2, for_operators=1, reading=3))
    port = int(api.urls[1].rpartition(":")[2])
    held: list[asyncio.StreamWriter] = []

    async def hold(token: str) -> None:
        """Send a request of which the body does not come; only what is let in waits for it."""
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"OPTIONS /v1/accounts HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 1\r\n\r\n"
        writer.write(head.encode())
        await asyncio.sleep(0.1)
        held.append(writer)

    async def status(token: str) -> int:
        return (await api.ask("GET /v1/accounts", at=1, headers=bearer(token))).status

    for _ in range(5):
        await hold("nobody's")  # waits for nothing, and takes nothing
    for _ in range(3):
        await hold(viewers[0])
    assert [await status(viewers[0]), await status(viewers[1]), await status(operator)] == [503, 200, 200]
    await hold(viewers[1])
    assert [await status(viewers[1]), await status(viewers[2]), await status(operator)] == [503, 503, 200]
    for writer in held:
        writer.close()
    async with asyncio.timeout(10):
        while [await status(token) for token in viewers] != [200] * 3:
            await asyncio.sleep(0.05)


async def test_an_answer_that_takes_too_long_is_given_up(api: Api) -> None:
    await api.replica(limits=RequestLimits(answering=0.2))
    api.owning = False
    answer = await api.ask("POST /v1/accounts/main/reconnect", at=1)
    assert (answer.status, answer.problem) == (503, "timed-out")
    assert answer.headers["Retry-After"]


async def test_a_caller_who_reads_slowly_may_take_longer_than_the_answer() -> None:
    body = b"x" * 2_000_000

    async def app(_: Scope, __: Receive, send: Send) -> None:
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    listener = bind("control", "127.0.0.1", 0)
    async with serving(AdmissionMiddleware(app, None, RequestLimits(answering=0.2)), listener):
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.setblocking(False)  # noqa: FBT003 - the library's name for it
            await asyncio.get_running_loop().sock_connect(peer, address_of(listener))
            reader, writer = await asyncio.open_connection(sock=peer, limit=1)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            await asyncio.sleep(0.6)
            async with asyncio.timeout(10):
                response = await reader.read()
            writer.close()
    assert response.partition(b"\r\n\r\n")[2] == body


async def test_a_body_that_does_not_come_is_given_up(api: Api) -> None:
    await api.replica(limits=RequestLimits(reading=0.2))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.urls[1].rpartition(":")[2]))
    writer.write(f"PUT {TARGET} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_what_is_no_http_is_answered_by_a_problem(api: Api) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.urls[0].rpartition(":")[2]))
    writer.write(b"\x16\x03\x01 hello\r\n\r\n")
    response = await reader.read()
    assert response.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in response
    writer.close()


@pytest.mark.parametrize(
    ("request_", "status", "problem"),
    [
        ("GET /nowhere", 404, "not-found"),
        ("GET /v1/accounts/", 404, "not-found"),
        ("GET /docs", 404, "not-found"),
        ("POST /v1/accounts", 405, "method-not-allowed"),
        ("PATCH /v1/accounts/main/subscription", 405, "method-not-allowed"),
        ("OPTIONS /v1/accounts", 405, "method-not-allowed"),
        ("TRACE /openapi.json", 405, "method-not-allowed"),
    ],
)
async def test_every_no_is_a_problem_with_the_headers_of_all(
    api: Api, request_: str, status: int, problem: str
) -> None:
    answer = await api.ask(request_)
    assert (answer.status, answer.problem) == (status, problem)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert len(answer.headers["X-Request-Id"]) == 32
    if status == 405 and "subscription" in request_:
        assert answer.headers["Allow"] == "DELETE, GET, HEAD, PUT"


async def test_a_fault_of_ours_is_a_problem_that_says_nothing_of_the_inside(api: Api) -> None:
    api.store.trouble = ValueError("the inside")  # type: ignore[assignment]
    with capture_logs() as logs:
        answer = await api.ask("POST /v1/accounts/main/reconnect", headers={"X-Request-Id": "mine"})
    assert (answer.status, answer.problem) == (500, "internal")
    assert [(line["event"], line["request_id"]) for line in logs if line["log_level"] == "error"] == [
        ("request failed", answer.headers["X-Request-Id"])
    ]
    assert [line["client_request_id"] for line in logs if line["log_level"] == "error"] == ["mine"]
    assert "inside" not in str(answer.body)
    assert answer.headers["X-Request-Id"] != "mine"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("given", "logged"),
    [
        ("from-me", "from-me"),
        ("a b {}", "a b {}"),
        ("x" * 128, "x" * 128),
        ("x" * 129, None),
        ("é", None),
        ("a\tb", None),
        ("", None),
    ],
)
async def test_the_callers_request_id_is_logged_beside_our_own(api: Api, given: str, logged: str | None) -> None:
    with capture_logs() as logs:
        answers = [await api.ask(f"DELETE {TARGET}", headers={"X-Request-Id": given}) for _ in range(2)]
    lines = [line for line in logs if line["event"] == "change requested"]
    own = [answer.headers["X-Request-Id"] for answer in answers]
    assert [line["request_id"] for line in lines] == own
    assert [line["client_request_id"] for line in lines] == [logged, logged]
    assert len({*own, given}) == 3


async def test_the_broker_away_does_not_count_as_a_fault_of_ours(api: Api) -> None:
    api.store.trouble = Unavailable("gone")
    assert (await api.ask("POST /v1/accounts/main/reconnect")).problem == "broker-unavailable"


def test_a_port_that_is_taken_is_a_wrong_setting() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigurationError, match=r"^control\.port: 127\.0\.0\.1:\d+ cannot be listened on"):
            bind("control", "127.0.0.1", other.getsockname()[1])
    with pytest.raises(ConfigurationError, match=r"^monitoring\.host: "):
        bind("monitoring", "no such host", 0)
