# ruff: noqa: ANN401 - what the hub says is JSON

import asyncio
import io
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from gateway.simulator import PATH, Simulator, SimulatorConfig, simulator

LIMIT = 10.0
KEY = "demo-key"


class Client:
    """The least client that speaks SignalR, so that a test sees each record as it came."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.raw: deque[str] = deque()
        self._rest = ""
        self._calls = 0

    async def send(self, text: str) -> None:
        await self.socket.send_str(text + "\x1e")

    async def record(self) -> str | None:
        """Return the next record as text; None once the connection has ended."""
        while not self.raw:
            async with asyncio.timeout(LIMIT):
                message = await self.socket.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                return None
            *records, self._rest = (self._rest + message.data).split("\x1e")
            self.raw.extend(records)
        return self.raw.popleft()

    async def next(self) -> Any:
        """Return the next record that is no ping."""
        while (record := await self.record()) is not None:
            if (decoded := json.loads(record)) != {"type": 6}:
                return decoded
        raise AssertionError("the connection ended")

    async def answer(self, method: str, *arguments: Any) -> str:
        """Call a method and give its completion as it came; pushes in between are passed over."""
        self._calls += 1
        number = f"call-{self._calls}"
        call = {"type": 1, "invocationId": number, "target": method, "arguments": arguments}
        await self.send(json.dumps(call))
        while (record := await self.record()) is not None:
            if json.loads(record).get("invocationId") == number:
                return record
        raise AssertionError("the connection ended")

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method and give its result."""
        return json.loads(await self.answer(method, *arguments))["result"]

    async def subscribe(self, strategies: list[int] | None = None) -> Any:
        return await self.call("SubscribeToStrategies", {"Strategies": strategies})

    async def pushes(self, count: int) -> list[Any]:
        return [(await self.next())["arguments"][0] for _ in range(count)]

    async def ending(self) -> tuple[list[str], int | None]:
        """Return the records until the end, and the WebSocket's close code."""
        records = []
        while (record := await self.record()) is not None:
            records.append(record)
        return records, self.socket.close_code


Connect = Callable[..., Awaitable[Client]]
Run = Callable[..., Awaitable[Simulator]]
Ask = Callable[..., Awaitable[Any]]


@pytest.fixture
def speak() -> type[Client]:
    """Make a client of a WebSocket."""
    return Client


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@asynccontextmanager
async def websocket(
    session: aiohttp.ClientSession, url: str, key: str
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with session.ws_connect(url, headers={"Authorization": f"Bearer {key}"}, max_msg_size=0) as socket:
        yield socket


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    """Start a simulator; its one user is `demo`, with the key `demo-key`."""
    async with AsyncExitStack() as stack:

        async def start(**config: Any) -> Simulator:
            return await stack.enter_async_context(simulator(SimulatorConfig(**config)))

        yield start


@pytest.fixture
async def connect(session: aiohttp.ClientSession, run: Run) -> AsyncIterator[Connect]:  # noqa: ARG001 - ends before the simulator does
    """Connect without negotiation, and shake hands."""
    async with AsyncExitStack() as stack:

        async def connect(hub: Simulator, *, key: str = KEY, shake: bool = True) -> Client:
            client = Client(await stack.enter_async_context(websocket(session, hub.url + PATH, key)))
            if shake:
                await client.send('{"protocol":"json","version":1}')
                assert await client.record() == "{}"
            return client

        yield connect


@pytest.fixture
def ask(session: aiohttp.ClientSession) -> Ask:
    """Ask the admin API; return the JSON that it answers."""

    async def ask(hub: Simulator, request: str, expect: int = 200, **body: Any) -> Any:
        method, path = request.split()
        async with session.request(
            method, f"{hub.url}/simulator{path}", data=io.BytesIO(json.dumps(body).encode())
        ) as response:
            text = await response.text()
            assert response.status == expect, text
            return json.loads(text)

    return ask
