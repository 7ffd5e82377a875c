"""An event of little memory does what asyncio's does; each test runs on both."""

from __future__ import annotations

import asyncio

import pytest

from gateway.compact_event import CompactEvent


@pytest.fixture(params=[CompactEvent, asyncio.Event])
def event(request: pytest.FixtureRequest) -> CompactEvent | asyncio.Event:
    return request.param()


async def waiting(event: CompactEvent | asyncio.Event, many: int) -> list[asyncio.Task[object]]:
    """Return tasks that wait."""
    tasks = [asyncio.create_task(event.wait()) for _ in range(many)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    return tasks


async def test_whoever_waits_goes_on_when_it_is_set(event: CompactEvent | asyncio.Event) -> None:
    tasks = await waiting(event, 3)
    assert not event.is_set()
    event.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert event.is_set()


async def test_whoever_waits_later_goes_on_at_once_until_it_is_cleared(event: CompactEvent | asyncio.Event) -> None:
    event.set()
    await asyncio.wait_for(event.wait(), 5)
    event.clear()
    (task,) = await waiting(event, 1)
    event.set()
    await asyncio.wait_for(task, 5)


async def test_a_waiter_goes_on_though_it_is_cleared_again_before_it_runs(
    event: CompactEvent | asyncio.Event,
) -> None:
    tasks = await waiting(event, 2)
    event.set()
    event.clear()
    event.set()
    event.clear()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    await waiting_ends(await waiting(event, 1))


async def test_one_that_is_cancelled_takes_no_other_with_it(event: CompactEvent | asyncio.Event) -> None:
    first, second = await waiting(event, 2)
    first.cancel()
    event.set()
    await asyncio.wait_for(second, 5)
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not event._waiters


async def test_one_that_is_cancelled_after_it_was_set_is_cancelled(event: CompactEvent | asyncio.Event) -> None:
    (task,) = await waiting(event, 1)
    event.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not event._waiters


async def waiting_ends(tasks: list[asyncio.Task[object]]) -> None:
    """Cancel what still waits, as a test leaves no task behind."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
