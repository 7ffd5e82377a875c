"""Lag is true: what looks alike from outside - no events come - looks different by its cause.

| | state | last record | lag in seconds | lag in sequences |
|---|---|---|---|---|
| a silent strategy | live | fresh | 0 | 0 |
| a frozen hub | live, then offline | stands still | grows once it is offline | as last known |
| a stuck writer | live | fresh | grows | grows |
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.gateway_process import House, house, until
from tests.support.metrics_client import Key, Metrics, metrics_of

SILENCE = 3.0
"""Seconds without a record after which the hub is given up."""
FRESH = 2.0
"""Seconds since the hub's last record that are no reason for doubt: it answers an audit each half second."""
NAME = "account-1"
STATE: Key = ("accounts", "live")
LAG: Key = ("lag_sequences", NAME)
SECONDS: Key = ("lag_seconds", NAME)
LAST_RECORD: Key = ("hub_last_record_timestamp_seconds", NAME)


@asynccontextmanager
async def at_work(folder: Path) -> AsyncIterator[tuple[House, Metrics]]:
    """Serve one account that is live and level, with 100 events behind it."""
    async with house(folder, accounts=1, prefill=100) as here:
        gateway = await here.gateway(env={"GATEWAY_HUB__SILENCE_TIMEOUT": str(SILENCE)})
        metrics = await metrics_of(gateway, here.http)
        await here.settled(100)
        await metrics.until(lambda now: now[STATE] == 1 and now[SECONDS] == 0, "it is live and level")
        yield here, metrics


def is_fresh(now: dict[Key, float]) -> bool:
    """Return whether the hub was heard just now."""
    return time.time() - now[LAST_RECORD] < FRESH


async def test_a_silent_strategy_is_live_and_heard_and_not_behind(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (_, metrics):
        began, looks = time.monotonic(), 0
        while time.monotonic() < began + 2 * SILENCE:
            now = await metrics.scrape()
            assert (now[STATE], now[LAG], now[SECONDS]) == (1, 0, 0)
            assert is_fresh(now)
            assert now["account_events_total", NAME, "published"] == 100
            looks += 1
        assert looks > 10
        assert now["verified_sequence", NAME] == 100


async def test_a_frozen_hub_is_not_heard_and_is_behind_since_it_was_heard_last(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (here, metrics):
        here.hub_process.freeze()
        frozen = await metrics.until(lambda now: not is_fresh(now), "its last record grows old")
        assert (frozen[STATE], frozen[SECONDS], frozen["hub_connections",]) == (1, 0, 1)
        away = await metrics.until(lambda now: now[STATE] == 0, "it is given up")
        assert away["hub_disconnects_total", "silent"] == 1
        assert away["account_disconnects_total", NAME, "silent"] == 1
        assert away["hub_connections",] == 0
        assert abs(away[LAST_RECORD] - frozen[LAST_RECORD]) < 0.1
        assert away[SECONDS] >= SILENCE - 0.5  # not from when it was found out
        later = await metrics.until(lambda now: now[SECONDS] > away[SECONDS] + 1, "it falls behind")
        assert later[LAG] == 0  # nobody knows better
        here.hub_process.thaw()
        await metrics.until(lambda now: now[STATE] == 1 and now[SECONDS] == 0 and is_fresh(now), "it is well again")


async def test_a_stuck_writer_is_heard_and_falls_behind_event_by_event(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (here, metrics):
        here.server.freeze()
        await here.emit(200, 50)
        stuck = await metrics.until(lambda now: now[LAG] >= 150 and now[SECONDS] > 2, "it falls behind")
        assert stuck[STATE] == 1
        assert is_fresh(stuck)
        assert stuck["hub_disconnects_total", "silent"] == 0
        assert stuck["account_events_total", NAME, "published"] == 100
        await until(lambda: "shard log failed, reopening" in here.gateways[0].stderr, "the log is given up")
        given_up = await metrics.scrape()  # without a log there is no session: what is known is kept
        assert given_up[LAG] >= 150
        assert given_up[SECONDS] >= stuck[SECONDS]
        here.server.thaw()
        well = await metrics.until(lambda now: now[LAG] == 0 and now[SECONDS] == 0, "it is level again")
        assert well["account_events_total", NAME, "published"] >= 300 - 50  # one commit may have been stored unheard
        assert well["commit_failures_total",] >= 1


async def test_under_a_steady_flow_the_lag_in_seconds_stays_small(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (here, metrics):
        await here.emit(4_000, 1_000)
        worst = 0.0
        while (now := await metrics.scrape())["account_events_total", NAME, "published"] < 4_100:
            worst = max(worst, now[SECONDS])
        assert worst < 3  # and not the four seconds for which something was always on its way
        assert now["event_latency_seconds_count",] == 4_100
        assert now["event_latency_seconds_sum",] > 0
        assert sum(count for key, count in now.items() if key[0] == "events_total" and "published" in key) == 4_100
