"""What answers probes: how it judges the gateway's loop by its beats, and how seldom it asks for numbers."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from gateway.bootstrap import monitor_main as monitor
from gateway.bootstrap.heartbeat import BEAT, FAILED, NUMBERS
from gateway.bootstrap.monitor_main import HeartbeatReader
from gateway.telemetry.control_counts import ControlCounters
from gateway.telemetry.metrics import Metrics


class Loop:
    """The other end: answers as it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.pulse = HeartbeatReader(Metrics(4), self.ask)

    def ask(self) -> None:
        self.asked += 1

    def beat(self, *, ready: bool = False) -> None:
        self.pulse.on_frame(BEAT, bytes([ready]))

    def answer(self) -> None:
        self.pulse.on_frame(NUMBERS, pickle.dumps((None, ControlCounters())))


async def turns() -> None:
    """Let everything that can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_it_is_alive_as_long_as_beats_come(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    assert await loop.pulse.is_alive()  # it has just been started by that loop
    assert not await loop.pulse.is_ready()
    loop.beat(ready=True)
    assert await loop.pulse.is_ready()
    monkeypatch.setattr(monitor, "STUCK", -1.0)
    assert not await loop.pulse.is_alive()
    assert not await loop.pulse.is_ready()


async def test_a_beat_that_was_not_read_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "STUCK", 0.05)
    monkeypatch.setattr(monitor, "EACH", 10.0)
    loop = Loop()
    await asyncio.sleep(0.1)
    asking = asyncio.create_task(loop.pulse.is_alive())
    await turns()
    assert not asking.done()
    loop.beat()
    assert await asking


async def test_scrapes_at_once_ask_once_and_share_a_text() -> None:
    loop = Loop()
    scrapes = [asyncio.create_task(loop.pulse.scraped("")) for _ in range(10)]
    await turns()
    assert loop.asked == 1
    await asyncio.sleep(0.05)
    loop.answer()
    texts = [text for _, text in await asyncio.gather(*scrapes)]
    assert b"mesolive_gateway_shards 4.0" in texts[0]
    assert all(text is texts[0] for text in texts)
    kind, text = await loop.pulse.scraped("application/openmetrics-text")  # the numbers took a while: they still hold
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    assert loop.asked == 1


async def test_numbers_of_a_while_ago_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_OLDEST", 0.0)
    loop = Loop()
    for number in (1, 2):
        scrape = asyncio.create_task(loop.pulse.scraped(""))
        await turns()
        assert loop.asked == number
        loop.answer()
        await scrape
        await asyncio.sleep(0.001)


async def test_a_silent_loop_ends_the_scrape_and_is_not_asked_again_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_SILENT", 0.05)
    loop = Loop()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await loop.pulse.scraped("")
    assert loop.asked == 1


async def test_a_busy_loop_that_beats_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_SILENT", 5.0)
    loop = Loop()
    scrape = asyncio.create_task(loop.pulse.scraped(""))
    for _ in range(5):
        await turns()
        assert not scrape.done()
        loop.beat()
    loop.answer()
    assert (await scrape)[1]


async def test_numbers_that_cannot_be_gathered_end_the_scrape() -> None:
    loop = Loop()
    scrape = asyncio.create_task(loop.pulse.scraped(""))
    await turns()
    loop.pulse.on_frame(FAILED, b"")
    with pytest.raises(TimeoutError):
        await scrape


async def test_only_so_many_scrapes_wait() -> None:
    loop = Loop()
    scrapes = [asyncio.create_task(loop.pulse.scraped("")) for _ in range(monitor._WAITING)]
    await turns()
    with pytest.raises(TimeoutError):
        await loop.pulse.scraped("")
    loop.answer()
    await asyncio.gather(*scrapes)
