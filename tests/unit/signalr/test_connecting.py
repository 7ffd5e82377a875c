"""The way in: negotiation, refusals, upgrade and handshake; and that no text ever holds a key or a token."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Literal

import pytest
from aiohttp import web

from gateway.errors import ConnectFailed, ConnectionLost, Unauthorized
from gateway.signalr.transport import MAX_RETRY_AFTER, read_retry_after
from gateway.simulator import PATH, Refusal, SimulatorConfig, simulator
from tests.unit.signalr.answers import answering

KEY = "the-key-of-an-account"
WEBSOCKETS = [{"transport": "WebSockets", "transferFormats": ["Text", "Binary"]}]
Start = Callable[..., Awaitable[Any]]
Transports = Callable[..., Any]
Failing = Callable[..., Awaitable[ConnectFailed]]


# Negotiation ------------------------------------------------------------------------------------------------


async def test_the_token_reaches_the_upgrade_as_it_was_given(start: Start, open_to: Start) -> None:
    hub = await start()
    await open_to(hub)
    negotiate, upgrade = hub.requests
    assert negotiate.query["negotiateVersion"] == "1"
    assert upgrade.query["id"] == "tok+1/=&%"
    assert negotiate.headers["Authorization"] == upgrade.headers["Authorization"] == f"Bearer {KEY}"


async def test_a_hub_of_negotiate_version_0_gives_a_connection_id_only(start: Start, open_to: Start) -> None:
    hub = await start(negotiate=answering(json.dumps({"connectionId": "id 0", "availableTransports": WEBSOCKETS})))
    await open_to(hub)
    assert hub.requests[1].query["id"] == "id 0"


async def test_negotiation_may_be_skipped(start: Start, open_to: Start) -> None:
    hub = await start()
    await open_to(hub, skip_negotiation=True)
    assert [request.method for request in hub.requests] == ["GET"]
    assert "id" not in hub.requests[0].query


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<html><title>Sign in</title>", "begins b'<html><title>Sign in"),
        ("", "is no SignalR negotiation"),
        ("[]", "is no SignalR negotiation"),
        ('{"connectionToken":5,"accessToken":"SECRET"}', "Expected `str | null`, got `int`"),
        ('{"connectionToken":"SECRET', "is no SignalR negotiation"),
        ("{}", "neither a connectionToken nor a url"),
        ('{"connectionToken":""}', "neither a connectionToken nor a url"),
        ('{"error":"the hub is full"}', "negotiate: the hub is full"),
        ('{"error":"no such key: the-key-of-an-account\\nfaked line"}', "no such key: … faked line"),
        ('{"connectionToken":"t","availableTransports":[]}', "offers no WebSockets for text, only nothing"),
        (
            '{"connectionToken":"t","availableTransports":[{"transport":"LongPolling","transferFormats":["Text"]}]}',
            "offers no WebSockets for text, only LongPolling",
        ),
        ("[" * 20_000, "is no SignalR negotiation"),
        ("x" * 2_000_000, "the answer is longer than 1048576 bytes"),
    ],
)
async def test_an_answer_that_leads_nowhere_is_told_in_words(
    body: str, message: str, start: Start, failure: Failing
) -> None:
    hub = await start(negotiate=answering(body))
    error = await failure(hub.url)
    assert message in str(error)
    assert error.reason == "negotiate"
    assert len(str(error)) < 500


async def test_an_answer_may_come_in_pieces(start: Start, open_to: Start) -> None:
    async def negotiate(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        text = json.dumps({"filler": "x" * 300_000, "connectionToken": "at the end"})
        for at in range(0, len(text), 50_000):
            await response.write(text[at : at + 50_000].encode())
            await asyncio.sleep(0)
        return response

    hub = await start(negotiate=negotiate)
    await open_to(hub)
    assert hub.requests[1].query["id"] == "at the end"


@pytest.mark.parametrize("status", [204, 301, 302, 307, 400, 404, 500, 502])
async def test_another_status_is_a_failure_with_its_number(status: int, start: Start, failure: Failing) -> None:
    hub = await start(negotiate=answering("", status, Location="/elsewhere?access_token=SECRET"))
    error = await failure(hub.url)
    hint = " and points to /elsewhere; if it is there now, mend hub.url" if 300 < status < 400 else ""
    if status == 404:
        hint = "; hub.url is the part of the address before /hubs/event/v1"
    assert (error.reason, str(error)) == (f"http-{status}", f"negotiate: the hub answered {status}{hint}")
    assert len(hub.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("step", ["negotiate", "upgrade"])
async def test_401_and_403_are_refusals_at_both_doors(
    status: int,
    step: Literal["negotiate", "upgrade"],
    failure: Failing,
) -> None:
    async with simulator(SimulatorConfig(users={"demo": KEY})) as hub:
        hub.hub.refusals.append(Refusal(status, retry_after=9, at=step))
        error = await failure(hub.url + PATH)
    assert isinstance(error, Unauthorized)
    assert (error.reason, error.retry_after) == ("unauthorized", 9)
    assert str(error).startswith(f"{step}: the hub answered {status}")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("step", ["negotiate", "upgrade"])
async def test_retry_after_is_read_at_both_doors(
    status: int,
    step: Literal["negotiate", "upgrade"],
    failure: Failing,
) -> None:
    async with simulator(SimulatorConfig(users={"demo": KEY})) as hub:
        hub.hub.refusals.append(Refusal(status, retry_after=7, at=step))
        error = await failure(hub.url + PATH)
    assert not isinstance(error, Unauthorized)
    assert (error.reason, error.retry_after) == (f"http-{status}", 7)


LIMIT = 1.0
"""Seconds: the stages before the one that hangs must be through by then, however busy the machine is."""
NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("601", MAX_RETRY_AFTER),
        ("86400", MAX_RETRY_AFTER),
        ("9" * 5000, MAX_RETRY_AFTER),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30),
        (format_datetime(NOW - timedelta(seconds=30), usegmt=True), 0),
        (format_datetime(NOW + timedelta(days=3000), usegmt=True), MAX_RETRY_AFTER),
        ("Sun, 22 Nov 2026 13:00:05 -0000", 5),
        ("-5", None),
        ("1.5", None),
        ("inf", None),
        ("nan", None),
        ("١٢", None),
        ("soon", None),
        ("", None),
        ("Sun, 99 Nov 99999999999 13:00:05 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_never_absurd(value: str, seconds: float | None) -> None:
    headers = {"Retry-After": value, "Date": format_datetime(NOW, usegmt=True)}
    assert read_retry_after(headers) == seconds


def test_a_retry_after_date_without_the_answers_own_date_counts_from_now() -> None:
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < (read_retry_after({"Retry-After": value}) or 0) <= 60


# Upgrade and handshake --------------------------------------------------------------------------------------


async def test_an_upgrade_that_is_none_is_told_in_words(start: Start, failure: Failing) -> None:
    hub = await start(upgrade=answering("hello"))
    error = await failure(hub.url)
    assert (error.reason, str(error)) == ("http-200", "upgrade: the hub answered 200")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"error":"no"}', "handshake: no"),
        ('{"error":"bad key the-key-of-an-account"}', "handshake: bad key …"),
        ('{"error":"no connection tok+1/=&% or tok%2B1%2F%3D%26%25"}', "handshake: no connection … or …"),
        ('{"type":7,"error":"x"}', "handshake: a record of 22 bytes came before the handshake was answered: x"),
        ("<html>", "handshake: not a handshake response"),
        ("", "handshake: not a handshake response"),
    ],
)
async def test_a_handshake_that_fails_says_why(record: str, message: str, start: Start, failure: Failing) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await peer.send(record)
        await peer.gone()

    error = await failure((await start(speak, shake=False)).url)
    assert str(error).startswith(message)
    assert error.reason == "handshake"


async def test_a_handshake_may_be_split_and_bring_the_first_pushes(start: Start, open_to: Start) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        for part in ("{", '}\x1e{"type":1,"target":"OnError","arguments":[1]}\x1e{"type":7}\x1e'):
            await peer.socket.send_str(part)
        await peer.gone()

    connection = await open_to(await start(speak, shake=False))
    pushed: list[object] = []
    with pytest.raises(ConnectionLost):
        await connection.run(lambda *push: pushed.append(push))
    assert pushed == [("OnError", [b"1"])]


@pytest.mark.parametrize("stage", ["negotiate", "upgrade", "handshake"])
async def test_each_stage_has_a_limit(stage: str, start: Start, failure: Failing) -> None:
    async def never(_: object) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    stages: dict[str, dict[str, Any]] = {
        "negotiate": {"negotiate": never},
        "upgrade": {"upgrade": never},
        "handshake": {"shake": False},
    }
    error = await failure((await start(**stages[stage])).url, connect_timeout=LIMIT)
    assert (error.reason, str(error)) == ("timeout", f"{stage}: no answer within {LIMIT:g} s")


async def test_a_host_where_nobody_listens_is_told_without_the_url(failure: Failing) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = await failure(f"http://127.0.0.1:{port}{PATH}?access_token=SECRET")
    assert error.reason == "unreachable"
    assert str(error) == f"negotiate: cannot connect to 127.0.0.1:{port}: Connection refused"


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"not HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=SECRET\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
@pytest.mark.parametrize("skip", [False, True])
async def test_a_peer_that_speaks_no_http_is_a_failure(reply: bytes, skip: bool, failure: Failing) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PATH}"
        await failure(url, skip_negotiation=skip)
