"""How many events a page is asked for: as many as the hub, the record limit and the memory take."""

from __future__ import annotations

from gateway.replica.source.context import AdaptivePageSize
from tests.support.in_process import Build

ACCOUNTS = ("one", "two", "three", "four", "five")


def test_after_large_events_pages_are_smaller_and_leave_room_for_others() -> None:
    limit = AdaptivePageSize(1000, room=32 * 2**20)
    assert limit.size == 1000

    limit.on_page([b"x" * 5_000_000, b"x" * 600])
    assert 1 < limit.size < 100
    assert limit.expected_bytes <= 32 * 2**20

    large = [b"x" * 100_000_000]
    for _ in range(100):
        limit.on_page(large)
    assert limit.size == 1

    for _ in range(200):
        limit.on_page([b"x" * 600])
    assert limit.size == 1000


async def test_a_limit_that_the_hub_refuses_is_halved_once_and_for_all_accounts(build: Build) -> None:
    world = await build(*ACCOUNTS, prefill=200)
    for account in ACCOUNTS:
        world.hub.patch_faults(account, max_events_limit=50)
    await world.replica()
    for account in ACCOUNTS:
        await world.published(account, range(1, 201))

    def count(what: str) -> int:
        return sum(world.hub.user(account).counts[what] for account in ACCOUNTS)

    refused, pages = count("refused"), count("GetEventsSince") - count("refused")
    assert 5 <= refused <= 5 * len(ACCOUNTS)  # 1000, 500, 250, 125, 62: of each account at the most
    assert pages < 20 * len(ACCOUNTS)  # of 31 events and more, and a few audits
    for account in ACCOUNTS:
        world.hub.user(account).emit(100)
        world.hub.drop(account)
    for account in ACCOUNTS:
        await world.published(account, range(1, 301))
    assert count("refused") == refused


async def test_a_page_above_the_record_limit_halves_the_limit_for_good(build: Build) -> None:
    world = await build("one", prefill=300)
    replica = await world.replica(max_record_bytes=64 * 1024)
    await world.published("one", range(1, 301))

    (connects,) = {status.connects for status in replica.statuses()}
    assert 2 <= connects <= 7
    world.hub.drop("one")  # before the events, so that they are paged
    world.hub.user("one").emit(300)
    await world.published("one", range(1, 601))
    (after,) = {status.connects for status in replica.statuses()}
    assert after == connects + 1
