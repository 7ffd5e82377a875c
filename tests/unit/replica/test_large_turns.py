"""Accounts whose messages are too large for the line: each goes alone, and others have as much time as they."""

from __future__ import annotations

import asyncio

import pytest

from gateway.replica.sink import large_turns
from gateway.replica.sink.large_turns import LargeTurns

ALL = {"large": None, "larger": None, "small": None}


async def rested(turns: LargeTurns, woken: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await woken.wait()
    woken.clear()
    assert turns.names()


async def test_after_a_failure_the_others_go_first_for_as_long_as_it_took() -> None:
    woken = asyncio.Event()
    turns = LargeTurns(woken.set)
    assert turns.due(ALL) is None
    turns.on_failed({}, 60.0)
    assert (not turns.names(), turns.due(ALL)) == (True, None)
    turns.on_failed({"large": 100_000}, 0.05)
    assert [*turns.names()] == ["large"]
    assert turns.due(["large"]) is None, "it rests, also where nobody else has anything"
    await rested(turns, woken)
    assert [turns.due(ALL) for _ in range(4)] == [None, "large", None, "large"]
    assert [turns.due(["large"]) for _ in range(2)] == ["large", "large"]
    assert turns.due(["small"]) is None


async def test_several_are_tried_in_turn_and_all_rest_after_each_failure() -> None:
    woken = asyncio.Event()
    turns = LargeTurns(woken.set)
    turns.on_failed({"large": 100_000, "larger": 200_000}, 0.01)
    await rested(turns, woken)
    assert turns.due(["large", "larger"]) == "large"
    turns.on_failed({"large": 100_000}, 0.05)
    assert turns.due(["large", "larger"]) is None
    await rested(turns, woken)
    assert turns.due(["large", "larger"]) == "larger"


async def test_one_goes_with_the_others_again_once_its_message_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = LargeTurns(lambda: None)
    turns.on_failed({"large": 100_000, "larger": 200_000, "gone": 5000}, 0.0)
    turns.on_stored({"large": 500, "small": 1_000_000})  # what came before it
    assert [*turns.names()] == ["large", "larger", "gone"]
    turns.on_stored({"large": 100_000})
    turns.forget("gone")
    assert [*turns.names()] == ["larger"]
    monkeypatch.setattr(large_turns, "_FORGOTTEN", 0.0)
    assert not turns.names(), "its message may be gone"
