"""A record that comes in small pieces over a slow line: it is no silence, and a call waits for its answer."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.errors import CallTimedOut, ConnectionLost

Start = Callable[..., Awaitable[Any]]
LONG = {"type": 1, "target": "A", "arguments": ["x" * 400]}
PIECES = 40
PAUSE = 0.03
"""Seconds between two pieces: a long record takes some 1.2 s, six times what the tests take for silence."""
SILENCE = 0.2


async def trickle(peer: Any, data: bytes, opcode: int = 1, *, fin: bool = True, pings: bool = False) -> None:  # noqa: ANN401 - conftest's Peer
    """Send one frame piece by piece, or each piece as a frame of one message, with pings in between."""
    size = len(data) // PIECES + 1
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    if not pings:
        head = bytes([(0x80 if fin else 0) | opcode, 126]) + len(data).to_bytes(2, "big")
        peer.tcp.write(head)
    for number, piece in enumerate(pieces):
        if pings:
            peer.frame(piece, opcode=0 if number else opcode, fin=number == len(pieces) - 1)
            await asyncio.sleep(PAUSE / 2)
            if number % 4 == 3:
                peer.frame(b"a balancer's", opcode=9)
        else:
            peer.tcp.write(piece)
        await asyncio.sleep(PAUSE)


def record(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\x1e"


async def pushed_until_the_end(connection: Any) -> tuple[list[str], ConnectionLost]:  # noqa: ANN401 - a connection
    pushed: list[str] = []
    with pytest.raises(ConnectionLost) as lost:
        await connection.run(lambda target, _: pushed.append(target))
    return pushed, lost.value


@pytest.mark.parametrize("pings", [False, True])
async def test_a_long_record_in_small_pieces_is_no_silence(start: Start, open_to: Start, pings: bool) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await trickle(peer, record(LONG), pings=pings)
        await peer.gone()

    pushed, lost = await pushed_until_the_end(await open_to(await start(speak), silence_timeout=SILENCE))
    assert pushed == ["A"]
    assert lost.reason == "silent"  # after it nothing came


async def test_nor_is_it_over_tls(start: Start, open_to: Start, server_tls: ssl.SSLContext, authority: Path) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await trickle(peer, record(LONG))
        await peer.send('{"type":7}')

    hub = await start(speak, tls=server_tls)
    tls = ssl.create_default_context(cafile=authority / "ca.pem")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as http:
        pushed, lost = await pushed_until_the_end(await open_to(hub, http=http, silence_timeout=SILENCE))

    assert (pushed, lost.reason) == (["A"], "closed")


async def test_a_record_that_stops_in_its_middle_is_silence(start: Start, open_to: Start) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        peer.tcp.write(b"\x81\x7e\x01\x00" + b'{"type":1')
        await peer.gone()

    pushed, lost = await pushed_until_the_end(await open_to(await start(speak), silence_timeout=SILENCE))
    assert (pushed, lost.reason) == ([], "silent")


async def test_a_call_waits_while_its_answer_comes_in_pieces(start: Start, open_to: Start) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await peer.next()
        await trickle(peer, record({"type": 3, "invocationId": "1", "result": "x" * 400}))
        await peer.gone()

    connection = await open_to(await start(speak), call_timeout=2 * SILENCE)
    running = asyncio.create_task(pushed_until_the_end(connection))
    assert json.loads(await connection.call("Echo", {})) == "x" * 400
    await connection.close()
    await running


async def test_a_call_does_not_wait_for_pieces_without_end(start: Start, open_to: Start) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await peer.next()
        peer.tcp.write(b"\x81\x7e\xff\xff")
        while not peer.tcp.is_closing():
            peer.tcp.write(b"x")
            await asyncio.sleep(0.01)

    connection = await open_to(await start(speak), call_timeout=0.3)
    running = asyncio.create_task(pushed_until_the_end(connection))
    began = asyncio.get_running_loop().time()
    with pytest.raises(CallTimedOut):
        await connection.call("Echo", {})
    # Four times its limit, or less where a busy peer pauses for longer than the limit; 30 only a hang breaks.
    assert 0.6 <= asyncio.get_running_loop().time() - began < 30
    await connection.close()
    await running


async def test_pings_of_the_websocket_are_answered_also_by_a_gateway_that_waits(start: Start, open_to: Start) -> None:
    pongs: list[bytes] = []

    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        peer.socket._autoping = False  # so that the test sees the pongs
        peer.frame(b"one", opcode=9)
        peer.frame(b"unasked", opcode=10)
        peer.frame(b"two", opcode=9)
        while len(pongs) < 2:
            message = await peer.socket.receive()
            if message.type is aiohttp.WSMsgType.PONG:
                pongs.append(bytes(message.data))
        await peer.send('{"type":7}')

    _, lost = await pushed_until_the_end(await open_to(await start(speak)))
    assert (pongs, lost.reason) == ([b"one", b"two"], "closed")
