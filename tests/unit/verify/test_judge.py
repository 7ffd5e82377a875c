"""The whole verdict on one account: what of the hub's history is compared with what of the log, and what is said."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.cli.verify import _Asked, _judge
from gateway.errors import GatewayError
from gateway.settings.model import Settings
from gateway.settings.sections import AccountsSettings, HubSettings
from gateway.simulator import Failure, Injection
from gateway.verify.compare import Verdict
from tests.support.in_process import Build, World

ORDER = (
    b'{"OrderId":7,"StrategyId":1,"StrategyName":"S","State":1,"FilledQty":null,"RemainingQty":null,"FillPrice":null,'
    b'"AvgFillPrice":null,"EventId":"$ID","EventSeqId":$SEQUENCE,"EventTime":"2026-01-01T00:00:00Z"}'
)


class CountingReader:
    """The log's reader, and how often the log was read."""

    def __init__(self, world: World) -> None:
        self._reader = world.broker.reader()
        self.reads = 0

    def read(self, **wanted: Any) -> Any:  # noqa: ANN401
        self.reads += 1
        return self._reader.read(**wanted)


async def judged(
    world: World,
    *,
    start: Any = "earliest",  # noqa: ANN401
    wait: float = 0.0,
    page: int = 1000,
    reader: CountingReader | None = None,
) -> Verdict:
    """Return the verdict on alpha, as `gateway verify` gives it."""
    settings = Settings(
        hub=HubSettings(url=world.hub.url, page_limit=page),
        accounts=AccountsSettings(directory=world.keys, start=start),
    )
    broker: Any = SimpleNamespace(reader=reader or world.broker.reader(), one_order=True)
    return await _judge(settings, "key-of-alpha", broker, "alpha", _Asked(None, None, wait, None, None))


async def published(build: Build, count: int) -> World:
    world = await build("alpha", prefill=count)
    await world.replica()
    await world.published("alpha", range(1, count + 1))
    return world


@pytest.mark.parametrize("faults", [{"empty_start": 2}, {"empty_pages": 2}, {"pages_unsorted": True}])
async def test_pages_without_events_do_not_end_the_comparison(build: Build, faults: dict[str, Any]) -> None:
    world = await published(build, 20)
    world.hub.patch_faults("alpha", **faults)
    assert str(await judged(world, page=5)) == "alpha: exact: 20 of 20 events once and in order"


async def test_a_row_of_entries_that_are_no_events_does_not_end_it(build: Build) -> None:
    world = await published(build, 3)
    for _ in range(8):
        world.hub.user("alpha").inject(Injection(b'{"What":1}', callback="OnMarginCall", push=False, history="payload"))
    world.hub.user("alpha").emit(4)
    await world.published("alpha", range(12, 16))
    assert (await judged(world, page=5)).emitted == 7


async def test_a_hub_that_takes_one_event_at_a_time_is_read_to_the_end(build: Build) -> None:
    world = await published(build, 3)
    world.hub.user("alpha").inject(Injection(b'{"What":1}', callback="OnMarginCall", push=False, history="payload"))
    world.hub.user("alpha").emit(4)
    await world.published("alpha", range(5, 9))
    world.hub.user("alpha").failures.append(Failure("GetEventsSince", count=9, hub_exception="busy"))
    assert (await judged(world)).emitted == 7


async def test_an_event_that_the_hub_cannot_give_is_named(build: Build) -> None:
    world = await published(build, 9)
    world.hub.patch_faults("alpha", unservable=[5])
    with pytest.raises(GatewayError, match="cannot return what follows event 4, not even alone: GetEventsSince"):
        await judged(world)


async def test_what_the_history_has_lost_is_not_held_against_the_log(build: Build) -> None:
    world = await published(build, 20)
    world.hub.patch_faults("alpha", forget_below=8)
    verdict = await judged(world)
    assert str(verdict) == "alpha: exact: 13 of 13 events once and in order; 7 more are older than the hub's history"


async def test_it_waits_for_each_event_and_not_for_the_last(build: Build) -> None:
    world = await published(build, 5)
    hidden = world.broker.entries.pop(2)
    reader = CountingReader(world)
    judging = asyncio.create_task(judged(world, wait=20.0, reader=reader))
    await world.until(lambda: reader.reads > 4, "the log is read once more")
    world.broker.entries.insert(2, hidden)
    assert (await judging).exact


@pytest.mark.parametrize(("start", "lost"), [("earliest", 9), (4, 5)])
async def test_nothing_in_the_log_is_judged_by_where_accounts_begin(build: Build, start: Any, lost: int) -> None:  # noqa: ANN401
    world = await build("alpha", prefill=9)
    assert len((await judged(world, start=start)).lost) == lost


async def test_of_an_account_that_begins_with_the_next_event_nothing_is_lost(build: Build) -> None:
    world = await build("alpha", prefill=9)
    with pytest.raises(GatewayError, match="the log has nothing of it, and accounts begin at the latest event"):
        await judged(world, start="latest")


async def test_a_history_that_ends_before_the_latest_event_is_said(build: Build) -> None:
    world = await published(build, 20)
    world.hub.user("alpha").inject(Injection(ORDER, history="no", sequence=21))
    await world.published("alpha", [21])
    expected = (
        "alpha: exact: 20 of 20 events once and in order; the hub's history shows nothing after 20, though its latest"
    )
    assert str(await judged(world)) == f"{expected} event is 21"


async def test_a_history_that_shows_nothing_is_no_proof(build: Build) -> None:
    world = await published(build, 20)
    world.hub.patch_faults("alpha", history_lag=3600.0)
    with pytest.raises(GatewayError, match="shows no event after 0, though its latest is 20"):
        await judged(world)


@pytest.mark.parametrize("end", ["null", "missing", "empty", "repeat", "fresh"])
async def test_an_empty_history_is_compared_with_an_empty_log(build: Build, end: str) -> None:
    world = await build("alpha")
    world.hub.patch_faults("alpha", page_end=end)
    world.hub.user("alpha").inject(Injection(ORDER, push=False, history="no", sequence=3))
    verdict = await judged(world)
    assert (verdict.emitted, verdict.exact, verdict.unshown) == (0, True, (0, 3))


async def test_entries_without_a_number_are_no_end(build: Build) -> None:
    world = await published(build, 3)
    for _ in range(6):
        world.hub.user("alpha").inject(Injection(b'{"What":1}', push=False, history="payload", numbered=False))
    world.hub.user("alpha").emit(4)
    await world.published("alpha", range(4, 8))
    assert (await judged(world, page=3)).emitted == 7


async def test_what_was_pushed_without_its_number_is_not_lost(build: Build) -> None:
    world = await build("alpha", prefill=3)
    await world.replica()
    await world.published("alpha", [1, 2, 3])
    await world.until(lambda: world.status("alpha").state.value == "live", "alpha is live")
    world.hub.patch_faults("alpha", sequence_missing=1.0)
    world.hub.user("alpha").emit(4)
    await world.until(lambda: len(world.messages("alpha")) >= 7, "all are published")
    verdict = await judged(world)
    assert str(verdict) == "alpha: exact: 3 of 7 events once and in order; 4 more came without a number"
