"""Accounts of which a record never ends, over real sockets: the memory of all stays within the budget."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from gateway.hub.client import hub_http, transport_of
from gateway.replica.source.account import AccountState
from gateway.settings.sections import HubSettings
from gateway.signalr.connect import connect as connect_to_hub
from tests.support.in_process import Build

ACCOUNTS = 12
SIZE = 31 * 2**20
BUDGET = 48 * 2**20
PIECE = b"x" * 2**17
STEP = 2**19
"""Bytes of a connection that may come before they are counted: two reads."""


@dataclass
class EndlessHub:
    """Takes connections, and sends each a record that never ends: in one frame, or in many messages."""

    url: str = ""
    connections: int = 0
    served: set[int] = field(default_factory=set)
    """Connections that took all of it."""

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False, timeout=0.1)
        await socket.prepare(request)
        await socket.receive()
        await socket.send_str("{}\x1e")
        self.connections += 1
        number, tcp = self.connections, request.transport
        assert tcp is not None
        if number % 2:
            tcp.write(b"\x82\x7f" + (SIZE + 1).to_bytes(8, "big"))  # a frame that is one byte longer
        for _ in range(SIZE // len(PIECE)):
            if number % 2:
                tcp.write(PIECE)
            else:
                await socket.send_bytes(PIECE)
            while not tcp.is_closing() and tcp.get_write_buffer_size():
                await asyncio.sleep(0.001)
            if tcp.is_closing():
                return socket
        self.served.add(number)
        async for _ in socket:
            pass
        return socket


@asynccontextmanager
async def endless_hub() -> AsyncIterator[EndlessHub]:
    hub = EndlessHub()
    app = web.Application()
    app.router.add_get("/{path:.*}", hub.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hubs/event/v1"
    try:
        yield hub
    finally:
        await runner.cleanup()


async def test_records_that_never_end_stay_within_the_budget_and_others_go_on(build: Build) -> None:
    greedy = [f"greedy-{number}" for number in range(ACCOUNTS)]
    world = await build("modest", *greedy, prefill=5)
    settings = HubSettings(url=world.hub.url, max_record_bytes=32 * 2**20, skip_negotiation=True)
    async with endless_hub() as endless, hub_http(settings) as http:

        async def connect(url: str, key: str, passed: Any) -> Any:  # noqa: ANN401 - as `access.connect` has it
            is_greedy = key.startswith("key-of-greedy")
            return await connect_to_hub(transport_of(settings, http), endless.url if is_greedy else url, key, passed)

        replica = await world.replica(connect=connect, memory_bytes=BUDGET)
        shared = replica._source.budget
        accounts = [replica._shards.accounts[name] for name in greedy]
        await world.becomes("modest", AccountState.LIVE)

        def dropped() -> int:
            return sum(account.counters.disconnects["too-large"] for account in accounts)

        highest = 0

        def some_gave_way() -> bool:
            nonlocal highest
            held = [account.link._connection.unfinished for account in accounts if account.link._connection is not None]
            highest = max(highest, sum(held))
            return dropped() >= ACCOUNTS

        await world.until(some_gave_way, "connections give way, again and again")
        world.hub.user("modest").emit(20)
        await world.published("modest", range(1, 26))

        assert BUDGET // 2 < highest < BUDGET + SIZE // 2  # with those that have given way and are about to end
        assert shared.peak < BUDGET + ACCOUNTS * STEP
        message = "is not complete, and memory is full"
        assert any(message in (account.last_error or "") for account in accounts)
        await world.stack.aclose()
        assert shared.held == 0
