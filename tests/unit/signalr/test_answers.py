"""What the hub's answers may say on the wire: redirects, `Connection` as a list, and calls that wait for an answer."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from gateway import __version__
from gateway.errors import ConnectFailed
from gateway.hub.client import hub_http, transport_of
from gateway.settings.sections import HubSettings
from gateway.signalr.connect import connect
from gateway.signalr.connection import HubConnection

PATH = "/hubs/event/v1"
KEY = "the-key-of-an-account"
Answer = Callable[[dict[str, str]], str]


def upgraded(connection: str) -> Answer:
    """Answer an upgrade, with this in the header `Connection`."""

    def answer(request: dict[str, str]) -> str:
        seed = request["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(seed.encode(), usedforsecurity=False).digest()).decode()
        return (
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: {connection}\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )

    return answer


def redirecting(status: int, place: str) -> Answer:
    return lambda _: f"HTTP/1.1 {status} Elsewhere\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n"


class Raw:
    """A hub written by hand: it answers each request as it is told, and a WebSocket's handshake with `{}`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests: list[dict[str, str]] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        request = {"": head[0]} | {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
        }
        self.requests.append(request)
        answer = self._answer(request)
        writer.write(answer.encode())
        self.writers.append(writer)
        if answer.startswith("HTTP/1.1 101"):
            writer.write(b"\x81\x03{}\x1e")
        await writer.drain()


@asynccontextmanager
async def raw(answer: Answer) -> AsyncIterator[tuple[Raw, str]]:
    hub = Raw(answer)
    server = await asyncio.start_server(hub.serve, "127.0.0.1", 0)
    try:
        yield hub, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        for writer in hub.writers:
            writer.close()
        server.close()


@asynccontextmanager
async def http_of(url: str, *, skips: bool = False) -> AsyncIterator[tuple[HubSettings, aiohttp.ClientSession]]:
    made = HubSettings(url=url, headers={"X-Api-Secret": "HDR-SECRET"}, skip_negotiation=skips)
    async with hub_http(made) as http:
        yield made, http


async def opened(url: str) -> HubConnection:
    async with http_of(url, skips=True) as (settings, http):
        connection = await connect(transport_of(settings, http), url + PATH, KEY)
        await connection.close()
        return connection


@pytest.mark.parametrize("connection", ["Upgrade", "upgrade", "keep-alive, Upgrade", "Upgrade,keep-alive"])
async def test_connection_may_be_a_list(connection: str) -> None:
    async with raw(upgraded(connection)) as (hub, url):
        await opened(url)
    assert hub.requests[0]["user-agent"] == f"mesolive-gateway/{__version__}"


@pytest.mark.parametrize("connection", ["close", "keep-alive", "not-upgrade", ""])
async def test_what_is_no_upgrade_is_none(connection: str) -> None:
    async with raw(upgraded(connection)) as (_, url):
        with pytest.raises(ConnectFailed, match="upgrade: not a WebSocket"):
            await opened(url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_an_upgrade_is_not_redirected_and_the_place_is_named(status: int) -> None:
    async with raw(upgraded("Upgrade")) as (other, elsewhere):
        place = elsewhere.replace("http://", "http://user:pass@") + "/hubs?id=tok-en-123&x=1"
        async with raw(redirecting(status, place)) as (_, url):
            with pytest.raises(ConnectFailed) as failed:
                await opened(url)
        assert other.requests == []  # nor did anything else leave for it
    assert failed.value.reason == f"http-{status}"  # a label of the metrics that there was before
    assert str(failed.value) == (
        f"upgrade: the hub answered {status} and points to {elsewhere}/hubs; if it is there now, mend hub.url"
    )


@pytest.mark.parametrize(
    ("place", "shown"), [("/elsewhere?token=secret", "/elsewhere"), ("", "nowhere"), ("http://[", "nowhere")]
)
async def test_negotiation_says_where_a_redirect_points(place: str, shown: str) -> None:
    async with raw(redirecting(308, place)) as (_, url), http_of(url) as (settings, http):
        with pytest.raises(ConnectFailed) as failed:
            await connect(transport_of(settings, http), url + PATH, KEY)
    assert str(failed.value).startswith(f"negotiate: the hub answered 308 and points to {shown};")


@pytest.mark.parametrize(
    ("known", "answer"),
    [
        (True, {"type": 3, "invocationId": "s1", "result": None}),
        (None, {"type": 3, "invocationId": "s1", "result": None}),
        (False, {"type": 3, "invocationId": "s1", "error": "there is no OnOrderUpdate here"}),
    ],
)
@pytest.mark.parametrize(
    "record",
    [
        '{"type":1,"invocationId":"s1","target":"OnOrderUpdate","arguments":[{"a":1}]}',
        '{"type":1,"target":"OnOrderUpdate","arguments":[{"a":1}],"invocationId":"s1"}',
    ],
)
async def test_an_invocation_that_waits_for_an_answer_gets_one(
    start: Callable[..., Awaitable[Any]],
    transports: Callable[..., Any],
    record: str,
    known: bool | None,
    answer: dict[str, Any],
) -> None:
    answers: list[str] = []
    received = asyncio.Event()

    async def speak(peer: Any) -> None:  # noqa: ANN401 - a hub's side
        await peer.send(record, '{"type":1,"target":"OnOrderUpdate","arguments":[{"a":2}]}')
        answers.append(await peer.next())
        received.set()
        await peer.gone()

    hub = await start(speak)
    connection = await connect(transports(), hub.url + PATH, KEY)
    pushes: list[tuple[str, list[bytes]]] = []

    def on_push(target: str, arguments: list[bytes]) -> bool | None:
        pushes.append((target, arguments))
        return known

    reading = asyncio.create_task(connection.run(on_push))
    async with asyncio.timeout(10):
        await received.wait()
    reading.cancel()
    await asyncio.wait({reading})
    await connection.close()
    assert [json.loads(one.rstrip("\x1e")) for one in answers] == [answer]
    assert pushes == [("OnOrderUpdate", [b'{"a":1}']), ("OnOrderUpdate", [b'{"a":2}'])]
