"""Leaving pushes to TCP while the broker takes what waits: for a moment, and only while it takes something."""

from __future__ import annotations

import asyncio

import pytest

from gateway.replica.source import backpressure as restraint
from gateway.replica.source.backpressure import Backpressure


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restraint, "_MAX_WAIT_S", 0.1)


def test_nothing_is_to_be_waited_for_where_there_is_room() -> None:
    assert Backpressure().wait(pressed=False) is None


async def test_a_batch_that_is_taken_ends_the_pause() -> None:
    one = Backpressure()
    pause = one.wait(pressed=True)
    assert pause is not None
    waiting = asyncio.ensure_future(pause)
    await asyncio.sleep(0)
    assert not waiting.done()
    one.on_batch_taken()
    async with asyncio.timeout(0.05):
        await waiting


async def test_a_broker_that_takes_nothing_is_waited_for_once() -> None:
    one = Backpressure()
    began = asyncio.get_running_loop().time()
    pause = one.wait(pressed=True)
    assert pause is not None
    await pause
    assert 0.09 < asyncio.get_running_loop().time() - began < 5
    assert one.wait(pressed=True) is None  # what is pushed is read, and let go where it finds no room
    one.on_batch_taken()
    again = one.wait(pressed=True)
    assert again is not None
    waiting = asyncio.ensure_future(again)
    await asyncio.sleep(0)
    one.on_batch_taken()
    await waiting
