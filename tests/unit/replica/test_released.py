"""What served an account over a connection is freed when that ends, without the help of the garbage collector."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from gateway.hub.methods import Hub
from gateway.replica.source.account import AccountState
from gateway.replica.source.catch_up_span import CatchUpSpan
from gateway.replica.source.prefetch import PagePrefetcher
from gateway.replica.source.sync import SyncLoop
from gateway.signalr.connection import HubConnection
from gateway.signalr.intake import Intake
from gateway.signalr.receipt import Receipt
from tests.support.in_process import Build

OURS = {one.__name__ for one in (HubConnection, Hub, PagePrefetcher, SyncLoop, CatchUpSpan, Intake, Receipt)}
THEIRS = {"ClientWebSocketResponse", "ResponseHandler", "ClientResponse", "BaseExceptionGroup", "ExceptionGroup"}


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[str]:
    """Count the objects that serve connections, by type."""
    kinds = Counter(type(one) for one in gc.get_objects())
    return Counter(
        {
            kind.__name__: count
            for kind, count in kinds.items()
            if kind.__name__ in OURS | THEIRS
            and not kind.__module__.startswith(("gateway.simulator", "aiohttp.connector"))
        }
    )


@pytest.mark.parametrize("how", ["abort", "close", "expire", "cut"])
async def test_connections_that_the_hub_ends_leave_nothing(how: str, build: Build) -> None:
    world = await build("alpha", "beta", prefill=30)
    await world.replica(audit=0.05)
    for account in ("alpha", "beta"):
        await world.becomes(account, AccountState.LIVE)
        await world.published(account, range(1, 31))
    before = alive()

    def has_connected(account: str, times: int) -> bool:
        return bool(world.hub.user(account).counts["connects"] == times)

    for times in range(1, 6):
        assert world.hub.drop(how=how) == 2
        for account in ("alpha", "beta"):
            await world.until(partial(has_connected, account, times + 1), "it connects")
            await world.becomes(account, AccountState.LIVE)
            world.hub.user(account).emit(1)
            await world.published(account, range(1, 31 + times))

    left: Counter[str] = Counter()

    def is_free() -> bool:
        nonlocal left
        left = alive() - before
        return left.total() <= 4  # a page or a call may be under way

    try:
        await world.until(is_free, "the connections are freed")
    except AssertionError:
        pytest.fail(f"alive after five connections of each account: {dict(left)}")
