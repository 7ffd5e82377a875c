"""The hub's clock and ours are two: how late an event is, is told by the hub's."""

from __future__ import annotations

import pytest

from gateway.simulator import events
from tests.support.in_process import Build

TICKS = 10_000_000


@pytest.mark.parametrize("off", [-3638, 3600])
async def test_a_hub_whose_clock_is_off_makes_no_event_late_and_none_early(
    build: Build, monkeypatch: pytest.MonkeyPatch, off: int
) -> None:
    honest = events.Clock.now
    monkeypatch.setattr(events.Clock, "now", lambda clock: honest(clock) + off * TICKS)
    world = await build("alpha", prefill=2)
    replica = await world.replica()
    await world.published("alpha", range(1, 3))
    counters = replica._source.counters
    assert counters.hub_offset.seconds == pytest.approx(off, abs=2)
    before = counters.latencies.sum

    world.hub.user("alpha").emit(10)
    await world.published("alpha", range(1, 13))
    await world.until(lambda: dict(counters.latencies.buckets())["+Inf"] == 12, "all are counted")

    assert 0 <= counters.latencies.sum - before < 10 * 5, "seconds, of ten events"
