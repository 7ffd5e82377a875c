"""An open connection: pushes, silence and every way to end, over real sockets."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from gateway.errors import ConnectionLost, ProtocolError
from gateway.signalr.connect import connect
from gateway.simulator import PATH, SimulatorConfig, simulator
from tests.unit.signalr.listening import following, ignore

KEY = "the-key-of-an-account"
Start = Callable[..., Awaitable[Any]]
Transports = Callable[..., Any]
Until = Callable[[Callable[[], bool]], Awaitable[None]]


def sending(*messages: bytes) -> Callable[[Any], Awaitable[None]]:
    """Speak these WebSocket messages as they are, then wait."""

    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        for message in messages:
            await peer.socket.send_frame(message, aiohttp.WSMsgType.TEXT)
        await peer.gone()

    return speak


# Pushes -----------------------------------------------------------------------------------------------------


async def test_a_record_that_is_known_at_sight_is_not_decoded(start: Start, open_to: Start) -> None:
    known, other = b'{"type":1,"target":"A","arguments":[1]}', b'{"type":1,"target":"A","arguments":[2]}'
    seen: list[bytes] = []
    pushed: list[Any] = []

    def at_sight(raw: bytes) -> bool:
        seen.append(raw)
        return raw == known

    connection = await open_to(await start(sending(b"\x1e".join((known, other, b'{"type":7}', b"")))))
    with pytest.raises(ConnectionLost):
        await connection.run(lambda *push: pushed.append(push), at_sight=at_sight)

    assert seen == [known, other, b'{"type":7}']
    assert pushed == [("A", [b"2"])]


async def test_records_may_be_joined_and_split_over_messages_and_frames(start: Start, open_to: Start) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        peer.frame(b'{"type":1,"target":"A","argu')
        peer.frame(b'ments":[1]}\x1e{"type":1,"target":"B","arguments":[2]}\x1e{"type":6}\x1e{"ty')
        peer.frame(b'pe":1,"target":"C",', opcode=2, fin=False)
        peer.frame(b"", opcode=9)
        peer.frame(b'"arguments":["\xc3', opcode=0, fin=False)
        peer.frame(b'\xbc"]}\x1e{"type":7}\x1e', opcode=0)
        await peer.gone()

    pushed, _ = await following(await open_to(await start(speak)))
    assert pushed == [("A", [b"1"]), ("B", [b"2"]), ("C", ['"ü"'.encode()])]


async def test_a_malformed_record_spoils_only_itself(start: Start, open_to: Start) -> None:
    speak = sending(
        b'{"type":1,"target":"A","arguments":[1]}\x1enot json\x1e \x1e',
        b'{"type":1,"target":"\xff\xfe","arguments":[]}\x1e{"type":11}\x1e{"type":2,"item":1}\x1e',
        b'{"type":3,"invocationId":"99","result":1}\x1e{"type":1,"target":"B","arguments":[]}\x1e{"type":7}\x1e',
    )
    pushed, lost = await following(await open_to(await start(speak)))
    assert pushed == [
        ("A", [b"1"]),
        ("", [b"not json"]),
        ("", [b" "]),
        ("", [b'{"type":1,"target":"\xff\xfe","arguments":[]}']),
        ("B", []),
    ]
    assert lost.reason == "closed"


async def test_nothing_after_a_close_record_is_taken(start: Start, open_to: Start) -> None:
    speak = sending(b'{"type":7,"error":"why"}\x1e{"type":1,"target":"A","arguments":[]}\x1e')
    pushed, lost = await following(await open_to(await start(speak)))
    assert (pushed, lost.reason, str(lost)) == ([], "closed", "the hub closed the connection: why")


async def test_several_megabytes_in_a_record_come_whole_and_soon(start: Start, open_to: Start) -> None:
    payload = b'"' + b"x" * 6_000_000 + b'"'
    record = b'{"type":1,"target":"A","arguments":[' + payload + b"]}\x1e"
    pieces = [record[at : at + 1000] for at in range(0, len(record), 1000)]
    began = time.perf_counter()
    pushed, _ = await following(await open_to(await start(sending(record, *pieces, b'{"type":7}\x1e'))))
    assert [arguments for _, arguments in pushed] == [[payload], [payload]]
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("error", [ValueError("ours"), TimeoutError("ours"), ProtocolError("ours"), KeyError("ours")])
async def test_what_a_callback_raises_comes_out_of_run_as_it_is(error: Exception, start: Start, open_to: Start) -> None:
    def fail(_target: str, _arguments: list[bytes]) -> None:
        raise error

    connection = await open_to(await start(sending(b'{"type":1,"target":"A","arguments":[]}\x1e')))
    calling = asyncio.create_task(connection.call("M", {}))
    with pytest.raises(type(error)) as raised:
        await connection.run(fail)
    assert raised.value is error
    with pytest.raises(ConnectionLost):
        await calling


# Time -------------------------------------------------------------------------------------------------------


async def test_it_pings_at_its_interval(start: Start, open_to: Start) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        received.extend([await peer.next() for _ in range(3)])
        await peer.send('{"type":7}')

    received: list[str] = []
    began = time.monotonic()
    await following(await open_to(await start(speak), ping_interval=0.05))
    assert received == ['{"type":6}\x1e'] * 3
    assert 0.15 <= time.monotonic() - began < 5


async def test_pings_of_many_connections_are_due_together_and_none_is_late(transports: Transports) -> None:
    async with simulator(SimulatorConfig(users={"demo": KEY})) as hub:
        due: set[float] = set()
        for _ in range(20):
            connection = await connect(transports(ping_interval=15.0), hub.url + PATH, KEY)
            running = asyncio.create_task(connection.run(ignore))
            await asyncio.sleep(0)
            assert 14.9 - 0.001 <= connection._ping_due - connection.last_received_at <= 15.0
            due.add(connection._ping_due)
            connection._received_at = connection._ping_due = asyncio.get_running_loop().time()
            connection._tick(asyncio.get_running_loop())
            due.add(connection._ping_due)
            running.cancel()
            await connection.close()
    assert all(abs(moment * 10 - round(moment * 10)) < 1e-3 for moment in due)


async def test_silence_is_the_end_and_a_websocket_ping_is_no_word(start: Start, open_to: Start) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        while not peer.tcp.is_closing():
            peer.frame(b"", opcode=9)
            await asyncio.sleep(0.02)

    connection = await open_to(await start(speak), silence_timeout=0.2)
    began = time.monotonic()
    _, lost = await following(connection)
    assert (lost.reason, str(lost)) == ("silent", "nothing was received for 0.2 s")
    assert 0.2 <= time.monotonic() - began < 5


async def test_a_hub_that_pings_is_not_silent(start: Start, open_to: Start) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        for _ in range(20):
            await peer.send('{"type":6}')
            await asyncio.sleep(0.02)
        await peer.send('{"type":7}')

    _, lost = await following(await open_to(await start(speak), silence_timeout=0.15))
    assert lost.reason == "closed"


async def test_a_simulated_hub_that_falls_silent_is_given_up(transports: Transports) -> None:
    async with simulator(SimulatorConfig(users={"demo": KEY})) as hub:
        connection = await connect(transports(silence_timeout=0.2), hub.url + PATH, KEY)
        hub.patch_faults(silent=True)
        _, lost = await following(connection)
        assert lost.reason == "silent"
        await connection.close()


@pytest.mark.parametrize("end", ["silence", "close", "cancel"])
async def test_a_peer_that_takes_nothing_holds_up_nobody(
    end: str, start: Start, transports: Transports, opened: Callable[[], tuple[int, int]], until: Until
) -> None:
    async def freeze(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        peer.tcp.pause_reading()
        await asyncio.Event().wait()

    hub = await start(freeze)
    before = opened()
    connection = await connect(transports(silence_timeout=0.6, ping_interval=0.05), hub.url, KEY)
    running = asyncio.create_task(connection.run(ignore))
    calls = [asyncio.create_task(connection.call("M", {"filler": "x" * 1_000_000})) for _ in range(20)]
    await until(lambda: connection._tcp.get_write_buffer_size() > 1_000_000)
    began = time.monotonic()
    if end == "cancel":
        running.cancel()
    if end != "close":
        await asyncio.wait({running})
    await connection.close()
    assert time.monotonic() - began < 5
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {ConnectionLost}
    assert isinstance(
        (await asyncio.gather(running, return_exceptions=True))[0], ConnectionLost | asyncio.CancelledError
    )
    hub.peers[0].tcp.abort()
    await until(lambda: opened()[0] <= before[0])


# Endings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "reason", "message"),
    [
        ([(b"\x03\xe8bye", 8)], "closed", "with code 1000: bye"),
        ([(b"\x03\xf0", 8)], "closed", "with code 1008"),
        ([(b"\x0f\xa1the-key-of-an-account", 8)], "closed", "with code 4001: …"),
        ([(b"", 8)], "closed", "with code none"),
        ([(b"\x00\x01", 8)], "protocol", "Invalid close code: 1"),
        ([(b"x", 8)], "protocol", "Invalid close frame"),
        ([(b"x", 3)], "protocol", "Unexpected opcode"),
        ([(b"x", 0)], "protocol", "Continuation frame"),
        ([(b"x", 1, True, 0x40)], "protocol", "reserved bits"),
    ],
)
async def test_each_end_of_a_websocket_has_its_words(
    frames: list[tuple[Any, ...]], reason: str, message: str, start: Start, open_to: Start
) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        for data, opcode, *flags in frames:
            peer.frame(data, opcode, **dict(zip(("fin", "rsv"), flags, strict=False)))
        await peer.gone()

    _, lost = await following(await open_to(await start(speak)))
    assert (lost.reason, message in str(lost)) == (reason, True), str(lost)
    assert KEY not in str(lost)


async def test_a_drop_without_a_close_is_told_at_once(start: Start, open_to: Start) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        peer.tcp.abort()

    _, lost = await following(await open_to(await start(speak)))
    assert lost.reason == "dropped"


async def test_a_drop_between_connect_and_run_is_told_at_once(start: Start, open_to: Start, until: Until) -> None:
    connection = await open_to(hub := await start())
    hub.peers[0].tcp.abort()
    await until(connection._tcp.is_closing)
    _, lost = await following(connection)
    assert lost.reason == "dropped"


@pytest.mark.parametrize("shape", ["one frame", "a declared size", "many messages", "many fragments"])
async def test_what_is_above_the_limit_ends_the_connection_with_a_clear_reason(
    shape: str, start: Start, open_to: Start
) -> None:
    big = b'{"type":1,"target":"A","arguments":["' + b"x" * 3_000_000 + b'"]}\x1e'

    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        if shape == "one frame":
            peer.frame(big)
        elif shape == "a declared size":
            peer.tcp.write(b"\x81\x7f" + (2**62).to_bytes(8, "big"))
        elif shape == "many messages":
            for at in range(0, len(big), 50_000):
                await peer.socket.send_frame(big[at : at + 50_000], aiohttp.WSMsgType.TEXT)
        else:
            for at in range(0, len(big), 50_000):
                peer.frame(big[at : at + 50_000], 0 if at else 1, fin=False)
        await peer.gone()

    connection = await open_to(await start(speak), max_record=100_000)
    call = asyncio.create_task(connection.call("GetEventsSince", {}))
    await asyncio.sleep(0)
    pushed, lost = await following(connection)
    assert (pushed, lost.reason) == ([], "too-large")
    assert "100000 bytes" in str(lost)
    with pytest.raises(ConnectionLost) as failed:
        await call
    assert failed.value.reason == "too-large"


async def test_many_records_in_a_message_longer_than_one_record_are_no_fault(start: Start, open_to: Start) -> None:
    record = b'{"type":1,"target":"A","arguments":["' + b"x" * 60_000 + b'"]}\x1e'
    speak = sending(record * 10 + b'{"type":7}\x1e')
    pushed, lost = await following(await open_to(await start(speak), max_record=64 * 1024))
    assert (len(pushed), lost.reason) == (10, "closed")


async def test_a_goodbye_is_said_and_answered(start: Start, transports: Transports) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        received.append(await peer.next())
        message = await peer.socket.receive()
        received.append(f"{message.type.name} {message.data}")

    received: list[str] = []
    hub = await start(speak)
    connection = await connect(transports(), hub.url, KEY)
    await connection.close()
    await connection.close()
    assert received == ['{"type":7}\x1e', "CLOSE 1000"]


async def test_a_hub_that_chatters_on_cannot_delay_the_goodbye(start: Start, transports: Transports) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        while not peer.tcp.is_closing():
            peer.frame(b'{"type":6}\x1e')
            await asyncio.sleep(0.01)

    connection = await connect(transports(), (await start(speak)).url, KEY)
    began = time.monotonic()
    await connection.close()
    assert time.monotonic() - began < 5
