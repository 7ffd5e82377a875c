"""Bytes that came and are no record yet are counted, whatever they came in, and a connection that grows is told of."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from gateway.errors import ConnectionLost
from gateway.signalr.connection import HubConnection

Start = Callable[..., Awaitable[Any]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
PIECE = b"x" * 50_000


async def whole_messages(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
    """A record in messages that are complete."""
    for _ in range(20):
        await peer.socket.send_frame(PIECE, aiohttp.WSMsgType.TEXT)


async def one_frame(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
    """A frame that says it is longer."""
    peer.tcp.write(b"\x81\x7f" + (5_000_000).to_bytes(8, "big") + PIECE * 20)


async def fragments(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
    """Frames of one message, and pings between them."""
    peer.frame(PIECE, fin=False)
    for _ in range(19):
        peer.frame(b"still here", opcode=9)
        peer.frame(PIECE, opcode=0, fin=False)
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("way", [whole_messages, one_frame, fragments])
async def test_what_is_not_complete_is_counted_and_told(
    way: Callable[[Any], Awaitable[None]], start: Start, open_to: Start, until: Until
) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await way(peer)
        await peer.gone()

    sizes: list[int] = []
    connection: HubConnection = await open_to(await start(speak))

    def on_growth() -> None:
        sizes.append(connection.unfinished)

    connection.on_growth = on_growth
    running = asyncio.create_task(connection.run(lambda *_: None, on_growth))
    await until(lambda: connection.unfinished >= 20 * len(PIECE))
    assert connection.unfinished < 20 * len(PIECE) + 10_000
    assert any(300_000 < size < 900_000 for size in sizes)
    running.cancel()
    await asyncio.wait({running})


async def test_nothing_is_left_of_what_is_complete(start: Start, open_to: Start, until: Until) -> None:
    record = b'{"type":1,"target":"A","arguments":["' + b"x" * 70_000 + b'"]}\x1e'

    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        for size in (10, 125, 126, 65_535, 65_536, 70_000):
            for _ in range(10):
                peer.frame(b"", opcode=9)
                peer.frame(record[:size], fin=False)
                peer.frame(record[size:], opcode=0)
            await peer.send(b'{"type":1,"target":"B","arguments":[1]}')
        await peer.gone()

    pushed: list[str] = []
    connection: HubConnection = await open_to(await start(speak))
    running = asyncio.create_task(connection.run(lambda target, _: pushed.append(target)))
    await until(lambda: len(pushed) == 66)
    assert connection.unfinished == 0
    running.cancel()
    await asyncio.wait({running})


async def test_a_connection_that_may_not_grow_any_more_ends(start: Start, open_to: Start) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await one_frame(peer)
        await peer.gone()

    connection: HubConnection = await open_to(await start(speak))

    def refuse() -> None:
        raise ConnectionLost("no room", reason="too-large")

    connection.on_growth = refuse
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionLost, match="no room") as lost:
            await connection.run(lambda *_: None)
    assert lost.value.reason == "too-large"
