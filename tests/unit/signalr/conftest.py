"""A hub that does on real sockets what a test tells it, and the transport to reach it."""

import asyncio
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.errors import ConnectFailed
from gateway.signalr.connect import connect
from gateway.signalr.connection import HubConnection
from gateway.signalr.transport import Transport
from tests.support.certificates import Authority

PATH = "/hubs/event/v1"
KEY = "the-key-of-an-account"
TRANSPORTS = '[{"transport":"WebSockets","transferFormats":["Text","Binary"]}]'
NEGOTIATED = (
    f'{{"negotiateVersion":1,"connectionId":"id-1","connectionToken":"tok+1/=&%","availableTransports":{TRANSPORTS}}}'
)
HANDSHAKE = '{"protocol":"json","version":1}\x1e'

Speak = Callable[["Peer"], Awaitable[None]]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Peer:
    """The hub's side of one WebSocket."""

    def __init__(self, socket: web.WebSocketResponse, request: web.Request) -> None:
        self.socket = socket
        self.request = request
        assert request.transport is not None
        self.tcp = request.transport

    async def send(self, *records: str | bytes) -> None:
        """Send each record, with its separator, as one message."""
        for record in records:
            text = record.encode() if isinstance(record, str) else record
            await self.socket.send_frame(text + b"\x1e", aiohttp.WSMsgType.TEXT)

    def frame(self, data: bytes, opcode: int = 1, *, fin: bool = True, rsv: int = 0) -> None:
        """Write one frame by hand."""
        size = len(data)
        head = bytes([(0x80 if fin else 0) | rsv | opcode])
        if size < 126:
            head += bytes([size])
        elif size < 65536:
            head += b"\x7e" + size.to_bytes(2, "big")
        else:
            head += b"\x7f" + size.to_bytes(8, "big")
        self.tcp.write(head + data)

    async def gone(self) -> None:
        """Wait until the client has left."""
        async for _ in self.socket:
            pass

    async def next(self) -> str:
        message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.TEXT, message
        return str(message.data)


class Hub:
    """What the hub saw."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[web.Request] = []
        self.peers: list[Peer] = []


async def negotiated(_: web.Request) -> web.Response:
    return web.Response(text=NEGOTIATED, content_type="application/json")


Start = Callable[..., Awaitable[Hub]]
Transports = Callable[..., Transport]
Connect = Callable[..., Awaitable[HubConnection]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a hub: `negotiate` answers the POST, `speak` has the WebSocket after the handshake (`shake`)."""
    async with AsyncExitStack() as stack:

        async def start(
            speak: Speak = Peer.gone,
            negotiate: Answer = negotiated,
            upgrade: Answer | None = None,
            *,
            shake: bool = True,
            tls: ssl.SSLContext | None = None,
        ) -> Hub:
            async def open_socket(request: web.Request) -> web.StreamResponse:
                hub.requests.append(request)
                if upgrade is not None and (answer := await upgrade(request)) is not None:
                    return answer
                socket = web.WebSocketResponse(compress=False, max_msg_size=0, timeout=0.2)
                await socket.prepare(request)
                peer = Peer(socket, request)
                hub.peers.append(peer)
                if shake:
                    assert await peer.next() == HANDSHAKE
                    await peer.send("{}")
                await speak(peer)
                return socket

            async def answer(request: web.Request) -> web.StreamResponse:
                hub.requests.append(request)
                return await negotiate(request)

            app = web.Application()
            app.router.add_post("/{path:.*}negotiate", answer)
            app.router.add_get("/{path:.*}", open_socket)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
            scheme = "http" if tls is None else "https"
            hub = Hub(f"{scheme}://127.0.0.1:{runner.addresses[0][1]}{PATH}")
            return hub

        yield start


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as session:
        yield session


@pytest.fixture
def transports(http: aiohttp.ClientSession) -> Transports:
    def make(**fields: Any) -> Transport:  # noqa: ANN401 - Transport's own fields
        return Transport(**({"http": http, "connect_timeout": 5.0, "call_timeout": 5.0} | fields))

    return make


@pytest.fixture
def failure(transports: Transports) -> Callable[..., Awaitable[ConnectFailed]]:
    """Connect in vain; return the error, whose traceback holds neither the key nor anything named SECRET."""

    async def failure(url: str, **fields: Any) -> ConnectFailed:  # noqa: ANN401 - Transport's own fields
        with pytest.raises(ConnectFailed) as failed:
            await connect(transports(**fields), url, KEY)
        text = "".join(traceback.format_exception(failed.value))
        assert KEY not in text
        assert "SECRET" not in text
        return failed.value

    return failure


@pytest.fixture
async def open_to(transports: Transports) -> AsyncIterator[Connect]:
    """Connect to a hub; closed after the test."""
    async with AsyncExitStack() as stack:

        async def open_to(hub: Hub, **fields: Any) -> HubConnection:  # noqa: ANN401 - Transport's own fields
            connection = await connect(transports(**fields), hub.url, KEY)
            stack.push_async_callback(connection.close)
            return connection

        yield open_to


@pytest.fixture
def opened() -> Callable[[], tuple[int, int]]:
    """Count what is open: descriptors and tasks."""
    return lambda: (len(list(Path("/proc/self/fd").iterdir())), len(asyncio.all_tasks()))


@pytest.fixture
async def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Wait for a condition."""

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)

    return until


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private CA (`ca.pem`) and a server's certificate for 127.0.0.1 (`server.pem`), made afresh."""
    folder = tmp_path_factory.mktemp("tls") / "ca"
    pair = Authority(folder).certificate("hub")
    (folder / "server.pem").write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    return folder


@pytest.fixture
def server_tls(authority: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / "server.pem")
    return context
