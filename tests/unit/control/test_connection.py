"""What a connection may cost before anybody knows who is at its other end, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop
from starlette.types import Receive, Scope, Send

from gateway.control.listener.connection import ConnectionLimits
from gateway.control.listener.server import serving
from gateway.control.listener.sockets import address_of, bind, url_of
from tests.support.certificates import Authority, Pair

TIMEOUT_S = 10.0
"""Seconds that only a hang exceeds."""
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class App:
    """Answers each request with its body's length, and notes what it saw."""

    size: int = 2
    reads: bool = True
    seen: list[str] = field(default_factory=list)
    body: bytes = b""
    """The same for all."""
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(f"{scope['method']} {scope['path']}")
        more = self.reads
        while more:
            message = await receive()
            more = message.get("more_body", False)
        await self.may_answer.wait()
        if len(self.body) != self.size:
            self.body = b"x" * self.size
        body = self.body
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def listening(
    app: App, limits: ConnectionLimits | None = None, *, answers: bool = True
) -> AsyncIterator[tuple[str, int]]:
    listener = bind("control", "127.0.0.1", 0)
    address = address_of(listener)
    if answers:
        app.may_answer.set()
    async with serving(app, listener, limits=limits):
        yield address
        app.may_answer.set()


async def all_of(reader: asyncio.StreamReader) -> bytes:
    """Read until the peer ends the connection, by a FIN or a reset."""
    found = b""
    async with asyncio.timeout(TIMEOUT_S):
        with suppress(ConnectionError):
            while piece := await reader.read(65536):
                found += piece
    return found


async def exchange(address: tuple[str, int], sent: bytes) -> bytes:
    """Send something, and give everything that comes until the server ends the connection."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(sent)
    try:
        return await all_of(reader)
    finally:
        writer.close()


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_WRONG = (b"Content-Length: +1", b"Content-Length: 1_0", b"Transfer-Encoding: x", b"X-A : b", b"X-A: b\0", b"Host: b")
REFUSED = {
    **{repr(one[:40]): b"POST / HTTP/1.1\r\nHost: a\r\n" + one + b"\r\n\r\n" for one in _WRONG},
    "GET with a body": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
    "HEAD with a body": b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
    "GET in chunks": b"GET / HTTP/1.1\r\nHost: a\r\n" + CHUNKED,
    "both lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n" + CHUNKED,
    "both lengths, none": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n" + CHUNKED,
    "chunks of HTTP/1.0": b"POST / HTTP/1.0\r\n" + CHUNKED,
    "two tokens": b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
    "two media types": b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Type: a\r\nContent-Type: a\r\n\r\n",
    "two keys": b"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: a\r\nIDEMPOTENCY-KEY: b\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "bare line feed": b"GET / HTTP/1.1\r\nHost: a\nX-Other: b\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: a\n\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: a\r\nX-Other: b\r\n c\r\n\r\n",
    "escaped slash": b"GET /v1/accounts/a%2fb HTTP/1.1\r\nHost: a\r\n\r\n",
    "escaped backslash": b"GET /v1/accounts/a%5Cb HTTP/1.1\r\nHost: a\r\n\r\n",
    "escaped letter": b"GET /%76%31/accounts HTTP/1.1\r\nHost: a\r\n\r\n",
    "escaped dots": b"GET /v1/%2E%2e/accounts HTTP/1.1\r\nHost: a\r\n\r\n",
    "escaped NUL": b"GET /v1/accounts/a%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "escaped line feed": b"GET /v1/accounts/a%0a HTTP/1.1\r\nHost: a\r\n\r\n",
    "half an escape": b"GET /v1/accounts/a%2 HTTP/1.1\r\nHost: a\r\n\r\n",
    "no escape": b"GET /v1/accounts/a%zz HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
    "large head": b"GET / HTTP/1.1\r\nHost: a\r\nX-Large: " + b"x" * 60_000 + b"\r\n\r\n",
    "large head that does not end": b"GET / HTTP/1.1\r\nHost: a\r\nX-Large: " + b"x" * 60_000,
    "many headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:b\r\n" * 101 + b"\r\n",
    "very many headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:b\r\n" * 50_000 + b"\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_malformed_request_gets_400_and_no_other_request_is_read(name: str) -> None:
    app = App()
    async with listening(app) as address:
        answer = await exchange(address, REFUSED[name] + GET)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b"connection: close" in answer.lower()
    assert (answer.count(b"HTTP/1.1 400 "), answer.count(b"HTTP/1.1 200 ")) == (1, 0)
    assert app.seen == []


@pytest.mark.parametrize("name", REFUSED)
async def test_malformed_request_is_refused_also_byte_by_byte_behind_a_good_one(name: str) -> None:
    app = App()
    async with listening(app) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\nxx")
        with suppress(ConnectionError):
            for byte in REFUSED[name][:400]:
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            writer.write(REFUSED[name][400:])
            await writer.drain()
        answer = await all_of(reader)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert app.seen == ["GET /"]


async def test_proper_requests_pass_whatever_their_body_and_path() -> None:
    app = App()
    async with listening(app) as address:
        reader, writer = await asyncio.open_connection(*address)
        for request in (
            GET,
            b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            b"POST /a%20b%C3%A9 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\na\nb\n\n\n c\n",
            b"POST /c HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"3\r\na\nb\r\n0\r\n\r\n",
            b"DELETE /?q=%2f HTTP/1.1\r\nHost: a\r\n\r\n",
        ):
            writer.write(request)
            async with asyncio.timeout(TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 "), head
                if not request.startswith(b"HEAD"):
                    assert await reader.readexactly(2) == b"xx"
        writer.close()
    assert app.seen == ["GET /", "HEAD /", "POST /a bé", "POST /c", "DELETE /"]


@pytest.mark.parametrize("count", [20, 21])
async def test_body_in_too_many_pieces_ends_the_connection(count: int) -> None:
    app = App()
    async with listening(app, ConnectionLimits(pieces=20)) as address:
        chunks = b"1\r\nx\r\n" * count
        sent = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + CHUNKED + chunks + b"0\r\n\r\n"
        answer = await exchange(address, sent)
    assert answer.startswith(b"HTTP/1.1 200 " if count == 20 else b"HTTP/1.1 400 "), answer


async def test_nothing_is_parsed_behind_an_answer_that_did_not_wait_for_the_body() -> None:
    app = App(reads=False)
    async with listening(app) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"1\r\nx\r\n")
        async with asyncio.timeout(TIMEOUT_S):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.write(b"0\r\n\r\n" + GET)  # after the answer
            assert await reader.read() == b"xx"
        writer.close()
    assert app.seen == ["POST /"]


async def test_port_without_bodies_refuses_every_body() -> None:
    app = App()
    async with listening(app, ConnectionLimits(has_bodies=False)) as address:
        for request in (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", REFUSED["GET in chunks"]):
            assert (await exchange(address, request)).startswith(b"HTTP/1.1 400 ")
        assert (await exchange(address, GET.replace(b"a\r\n", b"a\r\nConnection: close\r\n"))).startswith(
            b"HTTP/1.1 200 "
        )


async def test_client_may_read_the_refusal_while_it_still_sends() -> None:
    app = App()
    async with listening(app) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n" + CHUNKED)
        for _ in range(50):
            writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
            await asyncio.sleep(0)
        assert (await all_of(reader)).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def is_open(reader: asyncio.StreamReader) -> bool:
    """Whether the server has not ended the connection, as far as is known here."""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(0.05):
            return bool(await reader.read(1))
        return False
    return not reader.at_eof() and reader.exception() is None


async def test_connection_idle_longest_makes_room_never_a_new_or_answered_one() -> None:
    app = App()
    async with listening(app, ConnectionLimits(connections=4), answers=False) as address:
        busy = await asyncio.open_connection(*address)
        busy[1].write(GET)
        async with asyncio.timeout(TIMEOUT_S):
            while not app.seen:
                await asyncio.sleep(0.01)
        idle = []
        for _ in range(3):
            idle.append(await asyncio.open_connection(*address))
            await asyncio.sleep(0.02)
        idle[0][1].write(b"GE")  # half a head is no request
        for gone in range(3):
            new = await asyncio.open_connection(*address)
            async with asyncio.timeout(TIMEOUT_S):
                while await is_open(idle[gone][0]):
                    pass
            idle.append(new)
            assert [await is_open(one[0]) for one in idle[gone + 1 :]] == [True] * 3
        app.may_answer.set()
        for reader, writer in (busy, *idle[3:]):
            writer.write(GET)
            async with asyncio.timeout(TIMEOUT_S):
                assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        for _, writer in (busy, *idle):
            writer.close()


async def test_address_with_most_connections_makes_room_for_others() -> None:
    app = App()
    async with listening(app, ConnectionLimits(connections=4)) as address:
        honest = await asyncio.open_connection(*address, local_addr=("127.0.0.2", 0))
        await asyncio.sleep(0.02)
        others = [await asyncio.open_connection(*address) for _ in range(20)]
        honest[1].write(GET)
        async with asyncio.timeout(TIMEOUT_S):
            assert (await honest[0].readline()).startswith(b"HTTP/1.1 200 ")
        for _, writer in (honest, *others):
            writer.close()


async def send_on(peer: socket.socket) -> None:
    """Send a byte now and then, for ever."""
    while True:
        await asyncio.sleep(0.2)
        await asyncio.get_running_loop().sock_sendall(peer, b"x")


@pytest.mark.parametrize("requests", [1, 400], ids=["large answer", "pipelined"])
async def test_peer_that_does_not_read_is_reset_and_little_is_queued_for_it(requests: int) -> None:
    app = App(size=2_000_000 if requests == 1 else 20_000)
    async with listening(app, ConnectionLimits(stalled=0.3)) as address:
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.setblocking(False)  # noqa: FBT003 - the library's name for it
            loop = asyncio.get_running_loop()
            await loop.sock_connect(peer, address)
            await loop.sock_sendall(peer, GET * requests)
            await asyncio.sleep(0.2)
            assert len(app.seen) <= 30
            async with asyncio.timeout(TIMEOUT_S):
                with pytest.raises(ConnectionResetError):
                    await send_on(peer)
            assert len(app.seen) <= 30


async def test_large_answer_is_held_once_however_many_peers_leave_it_unread() -> None:
    app = App(size=8_000_000)
    peers: list[socket.socket] = []
    async with listening(app) as address:
        (await asyncio.open_connection(*address))[1].close()  # what is made once is made
        loop = asyncio.get_running_loop()
        tracemalloc.start()
        try:
            for number in range(1, 17):
                peer = socket.socket()
                peers.append(peer)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                peer.setblocking(False)  # noqa: FBT003 - the library's name for it
                await loop.sock_connect(peer, address)
                await loop.sock_sendall(peer, GET)
                async with asyncio.timeout(TIMEOUT_S):
                    while len(app.seen) < number:
                        await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        for peer in peers:
            peer.close()
    assert held < 2 * app.size


@pytest.mark.parametrize("how", ["asyncio", "uvloop"])
@pytest.mark.parametrize("size", [130_000, 200_000, 2_000_000])
def test_connections_whose_last_answer_is_unread_are_limited_too(how: str, size: int) -> None:
    async def attack() -> int:
        app, peers, most = App(size=size), list[socket.socket](), 0
        async with listening(app, ConnectionLimits(connections=8)) as address:
            loop = asyncio.get_running_loop()
            before = open_files()
            for number in range(1, 61):
                peer = socket.socket()
                peers.append(peer)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                peer.setblocking(False)  # noqa: FBT003 - the library's name for it
                await loop.sock_connect(peer, address)
                await loop.sock_sendall(peer, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                async with asyncio.timeout(TIMEOUT_S):
                    while len(app.seen) < number:
                        await asyncio.sleep(0.001)
                most = max(most, open_files() - before - number)
            honest = await asyncio.open_connection(*address)
            honest[1].write(GET)
            async with asyncio.timeout(TIMEOUT_S):
                assert (await honest[0].readline()).startswith(b"HTTP/1.1 200 ")
            honest[1].transport.abort()
            for peer in peers:
                peer.close()
        return most

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if how == "uvloop" else None) as runner:
        assert runner.run(attack()) <= 10


async def test_slow_head_is_cut_however_it_drips() -> None:
    async with listening(App(), ConnectionLimits(head=0.3)) as address:
        for _ in range(2):
            reader, writer = await asyncio.open_connection(*address)
            with suppress(ConnectionError):
                async with asyncio.timeout(TIMEOUT_S):
                    while not reader.at_eof():
                        writer.write(b"G")
                        await asyncio.sleep(0.05)
            writer.close()


def open_files() -> int:
    """Count this process's file descriptors."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("how", ["asyncio", "uvloop"])
def test_tls_is_spoken_where_a_context_is_given_and_silent_peers_are_cut(how: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.certificate("server")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if how == "uvloop" else None) as runner:
        runner.run(speak_tls(pair, authority))


async def speak_tls(pair: Pair, authority: Authority) -> None:
    listener = bind("control", "127.0.0.1", 0)
    assert url_of(listener, "https").startswith("https://127.0.0.1:")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.certificate, pair.key)
    client = ssl.create_default_context(cafile=str(authority.file))
    app = App()
    app.may_answer.set()
    address = address_of(listener)
    before = open_files()
    async with serving(app, listener, tls=server, limits=ConnectionLimits(head=5, connections=4)):
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01"):
            silent = [await asyncio.open_connection(*address) for _ in range(12)]
            for _, writer in silent:
                writer.write(sent)
            reader, writer = await asyncio.open_connection(*address, ssl=client)
            writer.write(GET)
            async with asyncio.timeout(TIMEOUT_S):
                assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
                for one, _ in silent[:8]:  # at most four stay, as long as they may
                    with suppress(ConnectionError):
                        assert (await one.read())[:1] in {b"", b"\x15"}  # nothing, or an alert of TLS
            for one in (writer, *(writer for _, writer in silent)):
                one.close()
        async with asyncio.timeout(TIMEOUT_S):
            while open_files() > before + 8:
                await asyncio.sleep(0.05)
