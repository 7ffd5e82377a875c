"""A connect that is cancelled or fails, at any await, leaves no task, socket or descriptor behind."""

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.errors import ConnectFailed, GatewayError
from gateway.signalr.connect import connect
from gateway.signalr.connection import HubConnection

KEY = "the-key-of-an-account"
Start = Callable[..., Awaitable[Any]]
Transports = Callable[..., Any]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
Opened = Callable[[], tuple[int, int]]


class CancelledAt:
    """Awaits a coroutine and cancels the task at its nth wait: at once, or when what it waits for has come."""

    def __init__(self, coroutine: Any, nth: int, *, late: bool) -> None:  # noqa: ANN401 - any coroutine
        self._coroutine = coroutine
        self._nth = nth
        self._late = late
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, HubConnection]:
        task = asyncio.current_task()
        assert task is not None
        steps = self._coroutine.__await__()
        step, value = steps.send, None
        while True:
            try:
                waiting = step(value)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            self.waits += 1
            if self.waits == self._nth:
                if self._late and waiting is not None:
                    waiting.add_done_callback(lambda _: task.cancel())
                else:
                    task.cancel()
            try:
                value = yield waiting
                step = steps.send
            except BaseException as error:  # noqa: BLE001 - handed on
                step, value = steps.throw, error


@pytest.fixture(params=["plain", "tls"])
async def secured(
    request: pytest.FixtureRequest, authority: Path, server_tls: ssl.SSLContext
) -> AsyncIterator[tuple[ssl.SSLContext | None, aiohttp.ClientSession]]:
    context = ssl.create_default_context(cafile=authority / "ca.pem")
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http:
        yield (server_tls if request.param == "tls" else None), http


@pytest.mark.parametrize("late", [False, True])
async def test_a_connect_cancelled_at_any_await_leaves_nothing_open(  # noqa: PLR0917 - fixtures
    late: bool,
    secured: tuple[ssl.SSLContext | None, aiohttp.ClientSession],
    start: Start,
    transports: Transports,
    opened: Opened,
    until: Until,
) -> None:
    async def attempt(nth: int) -> bool:
        """Return whether the cancellation came before the end."""
        steps = CancelledAt(connect(transports(http=http), hub.url, KEY), nth, late=late)
        try:
            connection = await steps
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
            return True
        await connection.close()
        return steps.waits >= nth

    tls, http = secured
    hub = await start(tls=tls)
    await attempt(1_000)
    await until(lambda: len(asyncio.all_tasks()) <= 2)
    gc.collect()
    before = opened()
    nth = 1
    while await asyncio.create_task(attempt(nth)):
        await until(lambda: opened()[0] <= before[0] and opened()[1] <= before[1])
        nth += 1
    assert nth > 5


@pytest.mark.parametrize("stage", ["negotiate", "body", "upgrade", "handshake", "refused handshake"])
async def test_a_connect_that_fails_at_any_stage_leaves_nothing_open(  # noqa: PLR0917 - fixtures
    stage: str,
    secured: tuple[ssl.SSLContext | None, aiohttp.ClientSession],
    start: Start,
    transports: Transports,
    opened: Opened,
    until: Until,
) -> None:
    async def never(_: object) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"connection')
        return await never(request)

    async def refuse(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await peer.send('{"error":"no"}')
        await peer.gone()

    stages: dict[str, dict[str, Any]] = {
        "negotiate": {"negotiate": never},
        "body": {"negotiate": half},
        "upgrade": {"upgrade": never},
        "handshake": {"shake": False},
        "refused handshake": {"shake": False, "speak": refuse},
    }
    tls, http = secured
    hub = await start(**stages[stage], tls=tls)
    before = opened()
    for _ in range(5):
        with pytest.raises(ConnectFailed):
            await connect(transports(http=http, connect_timeout=0.05), hub.url, KEY)
    await until(lambda: opened()[0] <= before[0] and opened()[1] <= before[1])


async def test_a_thousand_connections_come_and_go_without_a_trace(
    start: Start, transports: Transports, opened: Opened, until: Until
) -> None:
    async def come_and_go(connection: HubConnection) -> None:
        running = asyncio.create_task(connection.run(lambda *_: None))
        await asyncio.sleep(0)
        await connection.close()
        with pytest.raises(GatewayError):
            await running

    hub = await start()
    transport = transports()
    before = opened()
    for _ in range(10):
        await asyncio.gather(
            *[come_and_go(connection) for connection in [await connect(transport, hub.url, KEY) for _ in range(100)]]
        )
    await transport.http.connector.close()
    await until(lambda: opened()[0] <= before[0] and opened()[1] <= before[1])
