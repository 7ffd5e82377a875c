"""What one message of a hub may cost the others: the loop's longest pause, and what becomes of the connection."""

import asyncio
import gc
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import pytest

from gateway.errors import ConnectionLost
from gateway.events.decode import Decoder
from gateway.events.lossless_json import MAX_PARTS
from gateway.replica.source import push_receiver
from gateway.signalr.connection import HubConnection
from gateway.signalr.large_records import decode_aside
from tests.support.costly import COSTLY, ROOM

Start = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="module", autouse=True)
def _settled_memory() -> Iterator[None]:
    """As `gateway run` does: else the garbage collector looks at all that the tests have made, again and again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def one_call() -> None:
    """Do on the thread what holds the others up for longest: let C parse a text of as many parts as one may have."""
    json.loads(b"[" + b"[]," * (MAX_PARTS // 3) + b" " * ROOM + b"1]")
    gc.collect()


ENDED: Final = {"separators": None, "empty objects": ""}
"""Those that end the connection, and the last target that is taken."""


@dataclass
class Taken:
    """What came over a connection, as an account takes it, and in which order."""

    decoder: Decoder = field(default_factory=Decoder)
    last: str | None = None
    targets: list[str] = field(default_factory=list)
    is_busy: bool = False

    def _take(self, what: str) -> None:
        assert not self.is_busy, "two records overlap"
        self.last = what
        self.targets.append(what)

    def at_sight(self, record: bytes) -> bool:
        event = push_receiver.match(self.decoder, "account", record)
        if event is not None:
            self._take(event.kind)
        return event is not None

    def on_push(self, target: str, arguments: list[bytes]) -> None:
        push_receiver.decoded(self.decoder, "account", target, arguments)
        self._take(target)

    async def on_large(self, target: str, arguments: list[bytes]) -> None:
        self._take(target)
        self.is_busy = True
        await decode_aside(push_receiver.decoded, self.decoder, "account", target, arguments)
        self.is_busy = False

    async def until_lost(self, connection: HubConnection) -> ConnectionLost:
        connection.on_large = self.on_large
        with pytest.raises(ConnectionLost) as lost:
            await connection.run(self.on_push, at_sight=self.at_sight)
        return lost.value


class Heart:
    """Beats each millisecond, and notes how long it could not: in seconds of this process's work, on any thread.

    What other processes of a busy machine do is left out.
    """

    longest = 0.0
    _last = 0.0

    @contextmanager
    def beating(self) -> Iterator[None]:
        self._last = time.process_time()
        task = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            self._note()  # the beat that is due now
            task.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            self._note()

    def _note(self) -> None:
        now = time.process_time()
        self.longest, self._last = max(self.longest, now - self._last), now


async def send(peer: Any, *messages: bytes) -> None:  # noqa: ANN401 - conftest's Peer
    for message in messages:
        await peer.socket.send_frame(message, aiohttp.WSMsgType.TEXT)


@pytest.mark.parametrize("name", COSTLY)
async def test_a_costly_message_holds_the_loop_for_a_bounded_time(name: str, start: Start, open_to: Start) -> None:
    message = COSTLY[name]()

    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await send(peer, message, b'{"type":1,"target":"Last","arguments":[0]}\x1e{"type":7}\x1e')
        await peer.gone()

    async def speak_plainly(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await send(peer, b'{"type":7}\x1e')
        await peer.gone()

    control, heart, taken = Heart(), Heart(), Taken()
    connection = await open_to(await start(speak_plainly))
    with control.beating():
        await Taken().until_lost(connection)
        await decode_aside(one_call)
    connection = await open_to(await start(speak), silence_timeout=2.0)
    with heart.beating():
        lost = await taken.until_lost(connection)

    logging.getLogger(__name__).info("%s: longest pause %.3f s, control %.3f s", name, heart.longest, control.longest)
    assert heart.longest < 0.25 + 5 * control.longest
    assert lost.reason == ("protocol" if name in ENDED else "closed"), str(lost)
    assert taken.last == ENDED.get(name, "Last")


FRAMES: Final = {
    "empty messages": b"\x81\x00" * 300_000,
    "messages that end no record": b"\x81\x01 " * 300_000 + b"\x81\x01\x1e",
    "empty pieces of a message": b"\x01\x02{}" + b"\x00\x00" * 1_000_000 + b"\x80\x01\x1e",
    "pings": b"\x89\x00" * 150_000,
    "pongs": b"\x8a\x00" * 300_000,
}


@pytest.mark.parametrize("name", FRAMES)
async def test_very_many_frames_hold_the_loop_for_a_bounded_time(name: str, start: Start, open_to: Start) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        peer.tcp.write(FRAMES[name])
        await send(peer, b'{"type":7}\x1e')
        await peer.gone()

    control, heart = Heart(), Heart()
    connection = await open_to(await start(speak))
    with control.beating():
        await decode_aside(one_call)
    with heart.beating():
        lost = await Taken().until_lost(connection)
    logging.getLogger(__name__).info("%s: longest pause %.3f s, control %.3f s", name, heart.longest, control.longest)
    assert heart.longest < 0.05 + 5 * control.longest
    assert lost.reason == "closed", str(lost)


def push(number: int, size: int) -> bytes:
    return b'{"type":1,"target":"T%d","arguments":[{"x":"%b"}]}\x1e' % (number, b"x" * size)


async def test_records_keep_their_order_whatever_their_sizes(start: Start, open_to: Start) -> None:
    sizes = [10, 300_000, 10, 40_000, 1_000_000, 10, 10, 300_000]
    messages = [b"".join(push(3 * place + one, size) for one in range(3)) for place, size in enumerate(sizes)]

    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await send(peer, *messages, b'{"type":7}\x1e')
        await peer.gone()

    taken = Taken()
    await taken.until_lost(await open_to(await start(speak)))
    assert taken.targets == [f"T{number}" for number in range(3 * len(sizes))]


async def test_an_answer_that_comes_behind_a_large_record_is_not_lost(start: Start, open_to: Start) -> None:
    page = [{"x": "y" * 30_000}] * 200

    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        call = json.loads((await peer.next()).rstrip("\x1e"))
        answer = {"type": 3, "invocationId": call["invocationId"], "result": {"Events": page}}
        await send(peer, push(0, 2_000_000) + json.dumps(answer, separators=(",", ":")).encode() + b"\x1e")
        await peer.gone()

    taken = Taken()
    connection = await open_to(await start(speak))
    running = asyncio.create_task(taken.until_lost(connection))
    answer = json.loads(await connection.call("GetEventsSince", {}))
    assert (len(answer["Events"]), taken.targets) == (200, ["T0"])
    await connection.close()
    await running


async def test_100_malformed_records_in_a_row_are_taken_and_1_more_ends_it(start: Start, open_to: Start) -> None:
    sound = b'{"type":1,"target":"Sound","arguments":[1]}\x1e'

    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await send(peer, sound + b"{}\x1e" * 100 + sound + b"{}\x1e" * 60, b"{}\x1e" * 40, b"{}\x1e" + sound)
        await peer.gone()

    taken = Taken()
    lost = await taken.until_lost(await open_to(await start(speak)))
    assert taken.targets == ["Sound", *[""] * 100, "Sound", *[""] * 100]
    assert lost.reason == "protocol"
    assert f"101 records in a row that are none of SignalR's; {len(sound)} bytes" in str(lost)


async def test_an_empty_record_ends_the_connection_and_what_came_before_is_kept(start: Start, open_to: Start) -> None:
    sound = b'{"type":1,"target":"Sound","arguments":[1]}\x1e'

    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await send(peer, sound + b"\x1e" + sound)
        await peer.gone()

    taken = Taken()
    lost = await taken.until_lost(await open_to(await start(speak)))
    assert taken.targets == ["Sound"]
    assert (lost.reason, "an empty record" in str(lost)) == ("protocol", True)


async def test_a_hub_is_not_silent_while_its_words_are_being_read(start: Start, open_to: Start) -> None:
    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        await send(peer, b'{"type":6}\x1e' * 300_000, b'{"type":7}\x1e')
        await peer.gone()

    connection = await open_to(await start(speak), silence_timeout=0.1)
    assert (await Taken().until_lost(connection)).reason == "closed"


@pytest.mark.parametrize("opcode", [1, 9], ids=["calls", "pings"])
async def test_a_hub_that_asks_and_takes_no_answer_is_left_before_memory_fills(
    opcode: int, start: Start, open_to: Start
) -> None:
    call = b'{"type":1,"invocationId":"%b","target":"X","arguments":[]}\x1e' % (b"1" * 60)
    count = 250_000

    async def speak(peer: Any) -> None:  # noqa: ANN401 - conftest's Peer
        peer.tcp.pause_reading()
        for _ in range(count // 1_000):
            for _ in range(1_000):
                peer.frame(call[:125], opcode)
            await asyncio.sleep(0)
            while peer.tcp.get_write_buffer_size() > 1_000_000 and not peer.tcp.is_closing():
                await asyncio.sleep(0.01)
        peer.frame(b'{"type":7}\x1e')
        await peer.gone()

    connection = await open_to(await start(speak))
    most = 0

    def pause() -> None:
        nonlocal most
        most = max(most, connection._tcp.get_write_buffer_size())

    with pytest.raises(ConnectionLost) as lost:
        await connection.run(lambda *_: None, pause)
    assert "takes no answers" in str(lost.value), f"{most} bytes wait for it"
    assert most < 2 * 2**20
