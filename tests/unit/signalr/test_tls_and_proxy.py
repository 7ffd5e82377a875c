"""A private CA, and an HTTP proxy."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.errors import ConnectFailed
from gateway.hub.client import hub_http, transport_of
from gateway.hub.methods import PATH
from gateway.settings.sections import HubSettings
from gateway.signalr.connect import connect
from gateway.signalr.connection import HubConnection
from tests.unit.signalr.answers import answering

KEY = "the-key-of-an-account"
WEBSOCKETS = [{"transport": "WebSockets", "transferFormats": ["Text", "Binary"]}]
Start = Callable[..., Awaitable[Any]]
Transports = Callable[..., Any]
Failing = Callable[..., Awaitable[ConnectFailed]]


# TLS and a proxy --------------------------------------------------------------------------------------------


def trusting(authority: Path) -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=authority / "ca.pem"))


async def test_a_private_ca_is_trusted_where_it_is_named(
    start: Start, open_to: Start, server_tls: ssl.SSLContext, authority: Path
) -> None:
    hub = await start(tls=server_tls)
    async with aiohttp.ClientSession(connector=trusting(authority)) as http:
        connection = await open_to(hub, http=http)
        await connection.close()
    assert [request.scheme for request in hub.requests] == ["https", "https"]


async def test_a_certificate_that_nobody_vouches_for_is_a_failure(
    start: Start, failure: Failing, server_tls: ssl.SSLContext
) -> None:
    hub = await start(tls=server_tls)
    error = await failure(hub.url)
    assert error.reason == "unreachable"
    assert re.match(r"negotiate: the certificate of 127.0.0.1:\d+ is refused: .*CERTIFICATE_VERIFY_FAILED", str(error))
    assert hub.requests == []


async def test_a_port_that_speaks_no_tls_is_named(start: Start, failure: Failing) -> None:
    hub = await start()
    error = await failure(hub.url.replace("http://", "https://"))
    assert error.reason == "unreachable"
    assert "the port does not speak TLS" in str(error)
    assert "write http://" in str(error)


Answers = bytes | None
"""What a proxy answers instead of making a tunnel."""


class Proxy:
    """An HTTP proxy that knows CONNECT alone, and wants a user and a password."""

    def __init__(self, answers: Answers = None) -> None:
        self.asked: list[bytes] = []
        self._answers = answers

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        answers = self._answers
        if answers is None and b"Proxy-Authorization: Basic dXNlcjpwYXNz" not in head:
            answers = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
        target = re.match(rb"CONNECT (.+):(\d+) HTTP", head)
        if answers is not None or target is None:
            writer.write(answers or b"HTTP/1.1 400 No tunnel\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        there, back = await asyncio.open_connection(target[1].decode(), int(target[2]))
        for piece in (b"HTTP/1.1 200 Connection", b" established\r\nVia: ", b"1.1 a-proxy\r\n\r\n"):
            writer.write(piece)
            await asyncio.sleep(0.01)
        await asyncio.gather(_pump(reader, back), _pump(there, writer), return_exceptions=True)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
    sink.close()


@asynccontextmanager
async def proxy(answers: Answers = None) -> AsyncIterator[tuple[Proxy, int]]:
    """Run a proxy; return it and its port."""
    proxy = Proxy(answers)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
        yield proxy, server.sockets[0].getsockname()[1]


async def through(proxy: str, hub: str, **settings: Any) -> HubConnection:  # noqa: ANN401 - of the hub
    """Connect to a hub through a proxy, as the gateway does, and close."""
    made = HubSettings(url=hub.removesuffix(PATH), proxy=proxy, **settings)
    async with hub_http(made) as http:
        connection = await connect(transport_of(made, http), hub, KEY)
        await connection.close()
        return connection


@pytest.mark.parametrize("has_tls", [True, False])
async def test_a_hub_is_reached_through_a_tunnel(
    start: Start, server_tls: ssl.SSLContext, authority: Path, has_tls: bool
) -> None:
    hub = await start(tls=server_tls if has_tls else None)
    async with proxy() as (between, port):
        await through(f"http://user:pass@127.0.0.1:{port}", hub.url, ca_file=authority / "ca.pem")
    assert (len(between.asked), len(hub.requests)) == (1, 2)  # the upgrade uses the tunnel again
    assert all(head.startswith(b"CONNECT 127.0.0.1:") for head in between.asked)
    assert KEY.encode() not in b"".join(between.asked)
    assert "Proxy-Authorization" not in {name for request in hub.requests for name in request.headers}


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n", "hub.proxy answered 407 Proxy Authentication Required"),
        (b"HTTP/1.1 403 Forbidden\r\n", "hub.proxy answered 403 Forbidden"),
        (b"HTTP/1.1 401 Unauthorized\r\n", "hub.proxy answered 401 Unauthorized"),
        (b"HTTP/1.1 502 Bad Gateway\r\n", "hub.proxy answered 502 Bad Gateway"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://portal.example.com/\r\n", "hub.proxy answered 302 Found"),
    ],
)
async def test_what_a_proxy_refuses_is_no_refusal_of_the_hub(
    start: Start, answer: bytes, message: str, skips: bool
) -> None:
    hub = await start()
    async with proxy(answer + b"Content-Length: 0\r\n\r\n") as (_, port):
        with pytest.raises(ConnectFailed) as failed:
            await through(f"http://user:SECRET@127.0.0.1:{port}", hub.url, skip_negotiation=skips)
    stage = "upgrade" if skips else "negotiate"
    assert (type(failed.value), failed.value.reason, str(failed.value)) == (
        ConnectFailed,
        "proxy",
        f"{stage}: {message}",
    )
    assert hub.requests == []


async def test_a_proxy_that_is_not_there_is_named(start: Start) -> None:
    hub = await start()
    async with proxy() as (_, port):
        pass
    with pytest.raises(ConnectFailed) as failed:
        await through(f"http://user:SECRET@127.0.0.1:{port}", hub.url)
    assert failed.value.reason == "proxy"
    assert str(failed.value) == f"negotiate: hub.proxy: cannot connect to 127.0.0.1:{port}: Connection refused"
    assert "SECRET" not in str(failed.value)


def test_a_transports_text_does_not_show_the_proxys_password(transports: Transports) -> None:
    assert "SECRET" not in repr(transports(http=None, proxy="http://user:SECRET@proxy"))


async def test_a_redirect_from_tls_to_none_is_refused(
    start: Start, failure: Failing, server_tls: ssl.SSLContext, authority: Path
) -> None:
    hub = await start(negotiate=answering('{"url":"http://127.0.0.1/x"}'), tls=server_tls)
    async with aiohttp.ClientSession(connector=trusting(authority)) as http:
        assert "a URL without TLS" in str(await failure(hub.url, http=http))
