"""A connection that ended and was let go is freed at once, without the help of the garbage collector.

The hub may end a thousand connections in a second, and the collector may not look at old objects for minutes: each
connection takes some 20 KB until it does, beside the memory budget.
"""

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from gateway.errors import ConnectionLost
from gateway.signalr.calls import Calls
from gateway.signalr.connect import connect
from gateway.signalr.connection import HubConnection
from gateway.signalr.intake import Intake
from gateway.signalr.protocol import RecordReader
from gateway.signalr.receipt import Receipt

Start = Callable[..., Awaitable[Any]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
OURS = {one.__name__ for one in (HubConnection, Intake, Receipt, Calls, RecordReader)}
THEIRS = {"ClientWebSocketResponse", "ClientResponse", "ClientRequest", "ResponseHandler"}
"""Those of aiohttp that only a client has; the hub's side is in this process too."""


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[str]:
    """Count the objects of a connection that are alive, by type."""
    return Counter(name for one in gc.get_objects() if (name := type(one).__name__) in OURS | THEIRS)


async def dropped(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
    peer.tcp.abort()


async def closed(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
    await peer.socket.close()


async def sent_close(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
    await peer.send('{"type":7,"error":"enough"}')
    await peer.gone()


async def broke_off(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
    peer.frame(b"x" * 100_000, fin=False)
    await asyncio.sleep(0.01)
    peer.tcp.abort()


async def nonsense(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
    peer.frame(b"x", rsv=0x40)
    await peer.gone()


async def is_silent(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
    await peer.gone()


async def ends_by_itself(connection: HubConnection) -> None:
    """Read until the hub ends it, with a call in flight."""
    calling = connection.call("GetEventsSince", {"Limit": 1})
    lost = await asyncio.gather(connection.run(lambda *_: None), calling, return_exceptions=True)
    assert all(isinstance(one, ConnectionLost) for one in lost)


async def is_cancelled(connection: HubConnection) -> None:
    """Read until it is cancelled."""
    running = asyncio.create_task(connection.run(lambda *_: None))
    await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.wait({running})


async def is_never_read(_connection: HubConnection) -> None:
    """End before anything was read."""


WAYS = [
    *((speak, ends_by_itself) for speak in (dropped, closed, sent_close, broke_off, nonsense)),
    (is_silent, is_cancelled),
    (is_silent, is_never_read),
]


@pytest.mark.parametrize(("speak", "lives"), WAYS, ids=lambda way: way.__name__)
async def test_a_connection_that_ended_is_freed_at_once(
    speak: Callable[[Any], Awaitable[None]],
    lives: Callable[[HubConnection], Awaitable[None]],
    start: Start,
    transports: Callable[..., Any],
    until: Until,
) -> None:
    hub = await start(speak)
    transport = transports()
    before = alive()

    async def once() -> None:
        connection = await connect(transport, hub.url, "the-key-of-an-account")
        connection.on_growth = lambda: None
        try:
            await lives(connection)
        finally:
            await connection.close()

    await asyncio.create_task(once())
    left: Counter[str] = Counter()

    def are_free() -> bool:
        nonlocal left
        left = alive() - before
        return not left

    try:
        await until(are_free)
    except TimeoutError:
        pytest.fail(f"alive: {dict(left)}")
