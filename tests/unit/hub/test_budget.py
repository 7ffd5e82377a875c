"""A connection on which nothing succeeds is given up; one success is enough to keep it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.errors import CallFailed, CallTimedOut, ConnectionLost
from gateway.hub.methods import Hub, SubscriptionAnswer
from gateway.signalr.calls import CallBudget

LATEST = b'{"LatestEventSeqId":1,"SnapshotTime":"2026-01-01T00:00:00Z"}'


class Fake:
    """A connection that gives these answers in turn."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.given_up: str | None = None

    async def call(self, _method: str, _argument: dict[str, object]) -> bytes:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def shown(self, text: str) -> str:
        return text

    def give_up(self, why: str) -> None:
        self.given_up = why
        raise ConnectionLost(why, reason="call")


def hub_of(*answers: bytes | Exception) -> tuple[Hub, Fake]:
    fake = Fake(*answers)
    connection: Any = fake
    return Hub(connection), fake


async def test_three_calls_without_an_answer_are_enough() -> None:
    hub, fake = hub_of(*[CallTimedOut("GetLatestEventSeqId", 30)] * 3)
    for _ in range(2):
        with pytest.raises(CallTimedOut):
            await hub.latest()

    with pytest.raises(ConnectionLost, match="3 calls in a row had no answer; the last one: GetLatestEventSeqId: no"):
        await hub.latest()

    assert fake.given_up is not None


async def test_a_success_begins_the_count_again() -> None:
    late = CallTimedOut("GetLatestEventSeqId", 30)
    hub, fake = hub_of(late, late, LATEST, late, late, LATEST)
    for _ in range(2):
        for _ in range(2):
            with pytest.raises(CallTimedOut):
                await hub.latest()
        await hub.latest()

    assert fake.given_up is None


def test_a_minute_of_errors_alone_is_enough_and_three_in_a_second_are_not() -> None:
    budget = CallBudget()

    assert [budget.failed(at, is_timeout=False) for at in (0.0, 0.5, 1.0, 59.0)] == [None] * 4
    assert budget.failed(60.0, is_timeout=False) == "each of 5 calls failed in 60 s"
    budget.succeeded()
    assert budget.failed(61.0, is_timeout=False) is None
    assert budget.failed(125.0, is_timeout=False) is None, "two are not enough, however far apart"


async def test_an_error_is_an_error_whatever_method_it_comes_from() -> None:
    hub, _ = hub_of(*[CallFailed("M", "unauthorized")] * 3)
    loop = asyncio.get_running_loop()
    hub._budget._failures, hub._budget._since = 5, loop.time() - 61

    with pytest.raises(ConnectionLost, match="each of 6 calls failed in 61 s; the last one: M: unauthorized"):
        await hub.subscribe(None)


async def test_a_duplicate_request_at_a_subscription_says_that_it_holds() -> None:
    hub, _ = hub_of(b'{"Status":"DuplicateRequest","Error":{"Code":"DuplicateRequest"}}')

    assert await hub.subscribe([1, 2]) == SubscriptionAnswer((1, 2), ())
