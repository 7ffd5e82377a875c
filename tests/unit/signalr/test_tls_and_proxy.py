"""A private CA, and an HTTP proxy."""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from gateway.errors import ConnectFailed
from gateway.signalr.connection import connect

KEY = "the-key-of-an-account"
WEBSOCKETS = [{"transport": "WebSockets", "transferFormats": ["Text", "Binary"]}]
Start = Callable[..., Awaitable[Any]]
Transports = Callable[..., Any]
Failing = Callable[..., Awaitable[ConnectFailed]]
Answer = Callable[[web.Request], Awaitable[web.Response]]


def answering(text: str | bytes, status: int = 200, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        body = text.encode() if isinstance(text, str) else text
        return web.Response(body=body, status=status, headers={n.replace("_", "-"): v for n, v in headers.items()})

    return answer


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
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    assert hub.requests == []


async def proxying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: list[bytes]) -> None:
    """Serve one CONNECT, as an HTTP proxy does."""

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    head = await reader.readuntil(b"\r\n\r\n")
    asked.append(head)
    if b"Proxy-Authorization: Basic dXNlcjpwYXNz" not in head:
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        return
    target = re.match(rb"CONNECT (.+):(\d+) HTTP", head)
    assert target is not None
    there, back = await asyncio.open_connection(target[1].decode(), int(target[2]))
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)


async def test_an_http_proxy_is_gone_through_by_connect(
    start: Start, transports: Transports, failure: Failing, server_tls: ssl.SSLContext, authority: Path
) -> None:
    hub = await start(tls=server_tls)
    asked: list[bytes] = []
    server = await asyncio.start_server(lambda r, w: proxying(r, w, asked), "127.0.0.1", 0)
    async with server, aiohttp.ClientSession(connector=trusting(authority)) as http:
        port = server.sockets[0].getsockname()[1]
        connection = await connect(transports(http=http, proxy=f"http://user:pass@127.0.0.1:{port}"), hub.url, KEY)
        await connection.close()
        assert asked[0].startswith(b"CONNECT 127.0.0.1:")
        assert len(hub.requests) == 2

        refused = await failure(hub.url, http=http, proxy=f"http://user:SECRET@127.0.0.1:{port}")
        assert (refused.reason, str(refused)) == (
            "proxy",
            "negotiate: the proxy answered 407 Proxy Authentication Required",
        )


def test_a_transports_text_does_not_show_the_proxys_password(transports: Transports) -> None:
    assert "SECRET" not in repr(transports(http=None, proxy="http://user:SECRET@proxy"))


async def test_a_redirect_from_tls_to_none_is_refused(
    start: Start, failure: Failing, server_tls: ssl.SSLContext, authority: Path
) -> None:
    hub = await start(negotiate=answering('{"url":"http://127.0.0.1/x"}'), tls=server_tls)
    async with aiohttp.ClientSession(connector=trusting(authority)) as http:
        assert "a URL without TLS" in str(await failure(hub.url, http=http))
