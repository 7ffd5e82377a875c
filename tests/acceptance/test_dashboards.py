"""Each panel shows its fault: real gateways on a real nats-server are hurt, scraped by a real Prometheus.

All faults happen once, one after the other; Prometheus remembers them, so each panel's query is asked then for the calm
before, and for the episode that it should show.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.support.control_client import Control, control_of
from tests.support.dashboards import BOARDS, PANELS, asked
from tests.support.fault_injection import claim
from tests.support.gateway_process import House, house, until
from tests.support.prometheus_server import FETCHING, Prometheus, Sample
from tests.support.replay_client import asked as replay_asked
from tests.support.replay_client import ended

RULES: Final = Path(__file__).parents[2] / "helm" / "mesolive-gateway" / "rules" / "mesolive-gateway.yaml"
ACCOUNTS: Final = 6
QUICK: Final = {
    "GATEWAY_HUB__SILENCE_TIMEOUT": "8",  # longer than a takeover takes, see `fencing`
    "GATEWAY_HUB__PING_INTERVAL": "1",
    "GATEWAY_BROKER__COMMIT_TIMEOUT": "4",
}
REFUSED, SILENT, BAD, FORGOTTEN, REPLAYED, ANOTHER = (f"account-{number}" for number in range(1, ACCOUNTS + 1))
"""What happens to each account."""
pytestmark = FETCHING


@dataclass(frozen=True)
class Episode:
    """From when to when something was so; Unix times."""

    begin: float
    end: float


@dataclass
class Stage:
    """Two gateways, what they stand between, and who scrapes them."""

    here: House
    prometheus: Prometheus
    one: Control
    two: Control
    episodes: dict[str, Episode] = field(default_factory=dict)

    async def sees(self, expression: str) -> None:
        """Wait until Prometheus finds that a comparison holds."""

        async def is_so() -> bool:
            return bool(await asyncio.to_thread(self.prometheus.query, expression, time.time()))

        def description() -> str:
            metric = re.search(r"\w+_gateway_\w+(\{[^}]*\})?", expression)
            shown = self.prometheus.query(metric[0], time.time()) if metric else ""
            return f"{expression}: {shown}"

        await until(is_so, description)

    @asynccontextmanager
    async def episode(self, name: str) -> AsyncIterator[None]:
        """Remember when something was so; the body ends when Prometheus has seen it."""
        begin = time.time()
        yield
        self.episodes[name] = Episode(begin, time.time())

    async def calm(self) -> None:
        """Wait until all accounts were live and level for a while, and no rate over 4 s shows how they connected."""
        live = f'sum(mesolive_gateway_accounts{{state="live"}}) == bool {ACCOUNTS}'
        await self.sees(
            f"sum_over_time(({live})[6s:1s]) >= 6 and max(max_over_time(mesolive_gateway_lag_seconds[5s])) < 1 "
            "and sum(increase(mesolive_gateway_hub_connects_total[8s])) == 0"
        )

    def replica(self, control: Control) -> str:
        """Return its label `instance`."""
        return control.monitoring.removeprefix("http://")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Let everything happen."""
    folder = tmp_path_factory.mktemp("stage")
    with Prometheus(folder / "prometheus", [RULES]) as prometheus:
        yield asyncio.run(played(folder, prometheus))


async def played(folder: Path, prometheus: Prometheus) -> Stage:
    async with house(folder, accounts=ACCOUNTS) as here:
        one, two = [await control_of(await here.gateway(QUICK), here.http) for _ in range(2)]
        stage = Stage(here, prometheus, one, two)
        await asyncio.to_thread(prometheus.scrape, [stage.replica(one), stage.replica(two)])
        for account in here.accounts:
            await here.ask(f"POST /users/{account}/emit", rate=5.0)
        await stage.sees("min(mesolive_gateway_shards_owned) > 0")
        await stage.calm()
        now = time.time()
        stage.episodes["calm"] = Episode(now - 3, now)
        for happens in (burst, drops, refusal, silence, bad_events, gap, replays, broker_frozen, divergence):
            await happens(stage)
        await fencing(stage)
        await death(stage)
        return stage


async def burst(stage: Stage) -> None:
    async with stage.episode("burst"):
        await stage.here.ask(f"POST /users/{REPLAYED}/emit", count=20000)
        await stage.sees('sum(rate(mesolive_gateway_events_total{outcome="published"}[4s])) > 300')
        await stage.sees(f'mesolive_gateway_verified_sequence{{account="{REPLAYED}"}} > 20000')


async def drops(stage: Stage) -> None:
    async with stage.episode("drops"):
        await stage.here.ask("POST /drop", how="cut")
        await stage.sees(
            f'sum(increase(mesolive_gateway_hub_disconnects_total{{reason="dropped"}}[4s])) > {ACCOUNTS - 1}'
        )
        await stage.sees(f"sum(increase(mesolive_gateway_hub_connects_total[4s])) > {ACCOUNTS - 1}")


async def refusal(stage: Stage) -> None:
    here = stage.here
    async with stage.episode("refused"):
        await here.ask(f"PUT /users/{REFUSED}", key="another-key")
        await here.ask("POST /drop", user=REFUSED)
        await stage.sees(f'mesolive_gateway_account_state{{account="{REFUSED}", state="unauthorized"}} == 1')
        await stage.sees('ALERTS{alertname="MesoliveGatewayAccountUnauthorized"}')
        await stage.sees(f'mesolive_gateway_lag_seconds{{account="{REFUSED}"}} > 2')  # in the calm it is below 1
    (here.folder / "accounts" / REFUSED).write_text("another-key\n")
    await stage.sees(f'mesolive_gateway_account_state{{account="{REFUSED}", state="live"}} == 1')


async def silence(stage: Stage) -> None:
    async with stage.episode("silent"):
        await stage.here.ask("POST /silence", user=SILENT)
        await stage.sees(f'mesolive_gateway_account_disconnects_total{{account="{SILENT}", reason="silent"}} > 0')
        await stage.sees(f'mesolive_gateway_account_state{{account="{SILENT}", state="live"}} == 1')


async def bad_events(stage: Stage) -> None:
    async with stage.episode("bad"):
        await stage.here.ask(f"POST /users/{BAD}/inject", text='{"OrderId": true}')
        await stage.sees(
            'sum(increase(mesolive_gateway_events_total{kind="order-update", outcome="dead_letter"}[4s])) > 0'
        )
        await stage.sees(f'mesolive_gateway_account_events_total{{account="{BAD}", outcome="dead_letter"}} > 0')
        await stage.sees('ALERTS{alertname="MesoliveGatewayDeadLetters", alertstate="firing"}')


async def gap(stage: Stage) -> None:
    here, state = stage.here, f"PUT /v1/accounts/{FORGOTTEN}/target-state"
    async with stage.episode("gap"):
        assert (await stage.one.ask(state, json={"state": "paused"})).status == 200
        await stage.sees(f'mesolive_gateway_account_state{{account="{FORGOTTEN}", state="paused"}} == 1')
        forgotten = (await here.latest())[FORGOTTEN] + 5

        async def is_beyond() -> bool:
            return (await here.latest())[FORGOTTEN] > forgotten

        await until(is_beyond, "the hub emits more")
        await here.ask(f"PATCH /users/{FORGOTTEN}/faults", forget_below=forgotten)
        assert (await stage.one.ask(state, json={"state": "running"})).status in {200, 202}
        await stage.sees("sum(increase(mesolive_gateway_gaps_total[4s])) > 0")
        await stage.sees(f'mesolive_gateway_account_events_total{{account="{FORGOTTEN}", outcome="gap"}} > 0')
        await stage.sees('ALERTS{alertname="MesoliveGatewayGap", alertstate="firing"}')


async def replays(stage: Stage) -> None:
    async with stage.episode("replays"):
        done = await replay_asked(stage.one, REPLAYED, since=0, until=50)
        failed = await replay_asked(stage.one, FORGOTTEN, since=0, until=10)
        await ended(stage.one, done)
        await ended(stage.one, failed, "failed")
        await stage.sees('max(mesolive_gateway_replays{state="failed"}) == 1')
        await stage.sees('sum(increase(mesolive_gateway_replays_finished_total{state="failed"}[4s])) > 0')
        await stage.sees('ALERTS{alertname="MesoliveGatewayReplayFailed", alertstate="firing"}')


async def broker_frozen(stage: Stage) -> None:
    """First for less than a commit may take, then for longer."""
    lag = f'max(mesolive_gateway_lag_seconds{{account="{REPLAYED}"}})'
    for name, seen in {
        "slow": f"{lag} > 1.5",
        "frozen": f"{lag} > 4 and sum(increase(mesolive_gateway_commit_failures_total[4s])) > 0",
    }.items():
        async with stage.episode(name):
            stage.here.server.freeze()
            try:
                await stage.sees(seen)
            finally:
                stage.here.server.thaw()
            await stage.sees(f"{lag} < 1 and sum(rate(mesolive_gateway_commit_duration_seconds_count[4s])) > 0")


async def divergence(stage: Stage) -> None:
    async with stage.episode("diverged"):
        await stage.here.ask(f"POST /users/{ANOTHER}/reset", first=1)
        await stage.here.ask("POST /drop", user=ANOTHER)
        await stage.sees(f'mesolive_gateway_account_state{{account="{ANOTHER}", state="diverged"}} == 1')
        await stage.sees('ALERTS{alertname="MesoliveGatewayAccountDiverged", alertstate="firing"}')


async def fencing(stage: Stage) -> None:
    """Freeze a replica until the other has its shards; when both have theirs, let a stranger claim them all.

    One that wakes hears of its lost lease before it writes, nearly always: whether it was fenced is luck.
    """
    one, two = (f'{{instance="{stage.replica(each)}"}}' for each in (stage.one, stage.two))
    fenced = "sum(mesolive_gateway_fenced_writers_total)"
    async with stage.episode("fenced"):
        stage.two.running.freeze()
        await stage.sees(f"mesolive_gateway_shards_owned{one} == 16")
        stage.two.running.thaw()
        await stage.sees(f"mesolive_gateway_shards_owned{two} > 0 and on () mesolive_gateway_shards_owned{one} < 16")
        [before] = await asyncio.to_thread(stage.prometheus.query, fenced, time.time())
        await claim(stage.here.server.url, range(16))
        await stage.sees(f"{fenced} > {before.values[0]}")


async def death(stage: Stage) -> None:
    one, two = (f'{{instance="{stage.replica(each)}"}}' for each in (stage.one, stage.two))
    async with stage.episode("killed"):
        stage.two.running.kill()
        await stage.sees(f"absent(mesolive_gateway_shards_owned{two})")
        await stage.sees(f"mesolive_gateway_shards_owned{one} == 16")
        await stage.sees("count(mesolive_gateway_account_state) == 6")


# What each panel shows ------------------------------------------------------------------------------------

Measure = Callable[[Sequence[Sample]], float]


def most(**labels: str) -> Measure:
    """Measure the highest value of series with these labels; nothing is 0."""
    return lambda found: max(_values(found, labels), default=0.0)


def least(found: Sequence[Sample]) -> float:
    """Measure the lowest value."""
    return min(_values(found, {}), default=math.inf)


def slow(found: Sequence[Sample]) -> float:
    """Measure what a histogram has above 2.5 s at most."""
    total, quick = (next(one.values for one in found if one.labels["le"] == le) for le in ("+Inf", "2.5"))
    return max(map(float.__sub__, total, quick))


def _values(found: Sequence[Sample], labels: Mapping[str, str]) -> list[float]:
    return [
        value for one in found for value in one.values if labels.items() <= one.labels.items() and not math.isnan(value)
    ]


@dataclass(frozen=True)
class Shows:
    """That a query changes with an episode, by so much at least; less than nothing: it falls."""

    episode: str
    by: float
    measure: Measure = field(default_factory=most)
    query: str = "A"
    of: str = "{}"
    """What is asked of the query's answer."""
    account: str = ".*"
    interval: str = "4s"
    """What `$__rate_interval` is: four scrapes, as in Grafana, unless scrapes are missing."""


ALONE: Final = "sum(({}) * on (instance) group_left () (mesolive_gateway_shards_owned == 16))"
"""What is so at the replica that serves everything."""
LASTS: Final = "min_over_time(({})[2s:500ms])"
"""What is so for a while: a page of the history is there for a moment."""

QUIET: Final = {("overview", "Longest wait for memory"), ("overview", "Unexpected errors")}
"""Panels of what none of the episodes brings about."""
SHOWS: Final[Mapping[tuple[str, str], Sequence[Shows]]] = {
    ("overview", "Accounts not live"): [Shows("refused", 1), Shows("diverged", 1)],
    ("overview", "Worst lag"): [Shows("frozen", 2), Shows("slow", 1)],
    ("overview", "Disconnects a minute"): [Shows("drops", 60)],
    ("overview", "Shards without owner"): [Shows("fenced", 1), Shows("killed", 1)],
    ("overview", "Gaps"): [Shows("gap", 0.9)],
    ("overview", "Dead letters"): [Shows("bad", 0.9)],
    ("overview", "Accounts by state"): [
        Shows("refused", 1, most(state="unauthorized")),
        Shows("gap", 1, most(state="paused")),
        Shows("diverged", 1, most(state="diverged")),
    ],
    ("overview", "Lag of the worst accounts"): [
        Shows("frozen", 2, most(account=REPLAYED)),
        Shows("refused", 0.5, most(account=REFUSED)),
    ],
    ("overview", "Disconnects by reason"): [
        Shows("drops", 1, most(reason="dropped")),
        Shows("silent", 0.1, most(reason="silent")),
        Shows("refused", 0.1, most(reason="unauthorized"), query="B"),
    ],
    ("overview", "Connections to the hub"): [Shows("refused", -1, least), Shows("drops", 1, query="B")],
    ("overview", "Throughput by kind"): [Shows("burst", 10, most(kind="order-update"))],
    ("overview", "Events by outcome"): [
        Shows("burst", 200, most(outcome="published")),
        Shows("bad", 0.1, most(outcome="dead_letter")),
    ],
    ("overview", "Latency of events"): [Shows("frozen", 10, slow)],
    ("overview", "Longest silence of the hub"): [Shows("silent", 2)],
    ("overview", "Dead letters by kind"): [Shows("bad", 0.9, most(kind="order-update"))],
    ("overview", "Gaps announced"): [Shows("gap", 0.9)],
    ("overview", "Duration of commits"): [Shows("slow", 0.5, query="B")],
    ("overview", "Commits"): [Shows("frozen", -1, least), Shows("frozen", 0.2, query="B")],
    ("overview", "Messages in a commit"): [Shows("burst", 3)],
    ("overview", "Bytes that wait for the broker"): [Shows("frozen", 1000, of=LASTS)],
    ("overview", "Shards by replica"): [Shows("killed", 1)],
    ("overview", "Writers fenced"): [Shows("fenced", 0.9, interval="20s")],  # it is not scraped while it is frozen
    ("overview", "Replays by state"): [
        Shows("replays", 1, most(state="completed")),
        Shows("replays", 1, most(state="failed")),
    ],
    ("overview", "Replays that ended"): [
        Shows("replays", 0.9, most(state="completed")),
        Shows("replays", 0.9, most(state="failed")),
    ],
    ("overview", "CPU by replica"): [Shows("burst", 0.05)],
    ("overview", "Memory by replica"): [Shows("killed", -1, least, of="count({})")],
    ("overview", "Accounts that need a look"): [
        Shows("refused", 0.5, most(account=REFUSED, state="unauthorized")),
        Shows("diverged", 1, most(account=ANOTHER, state="diverged"), of="count by (account, state) ({})"),
    ],
    ("overview", "Replicas"): [Shows("killed", -1, least, of="count({})")],
    ("account", "State"): [
        Shows("refused", 1, most(state="unauthorized"), account=REFUSED),
        Shows("diverged", 1, most(state="diverged"), account=ANOTHER),
    ],
    ("account", "Behind the hub"): [Shows("frozen", 2, account=REPLAYED)],
    ("account", "Last record"): [Shows("silent", 2, account=SILENT)],
    ("account", "Verified up to"): [Shows("burst", 19000, account=REPLAYED)],
    ("account", "Gaps and dead letters"): [
        Shows("gap", 1, account=FORGOTTEN),
        Shows("bad", 1, account=BAD),
    ],
    ("account", "Served by"): [Shows("killed", 1, of=ALONE, account=REPLAYED)],
    ("account", "States"): [Shows("gap", 1, most(state="paused"), account=FORGOTTEN)],
    ("account", "Behind the hub, in seconds"): [
        Shows("frozen", 2, account=REPLAYED),
        Shows("refused", 0.5, account=REFUSED),
    ],
    ("account", "Behind the hub, in sequences"): [Shows("frozen", 5, account=REPLAYED)],
    ("account", "Disconnects by reason"): [
        Shows("silent", 1, most(reason="silent"), account=SILENT),
        Shows("refused", 1, most(reason="unauthorized"), query="B", account=REFUSED),
    ],
    ("account", "Silence of the hub"): [Shows("silent", 2, account=SILENT)],
    ("account", "Events by outcome"): [Shows("burst", 200, most(outcome="published"), account=REPLAYED)],
    ("account", "Verified sequence"): [Shows("burst", 19000, account=REPLAYED)],
    ("account", "Replica"): [Shows("killed", 1, of=ALONE, account=REPLAYED)],
}
"""By board and title of the panel."""


def test_of_each_panel_it_is_said_what_it_shows() -> None:
    assert SHOWS.keys() | QUIET == PANELS.keys()


@pytest.mark.parametrize(("board", "title"), sorted(QUIET))
def test_a_panel_shows_nothing_while_nothing_fails_and_memory_is_not_full(stage: Stage, board: str, title: str) -> None:
    for query in PANELS[board, title].queries.values():
        for when in stage.episodes.values():
            found = stage.prometheus.range(asked(query), when.begin, when.end)
            assert most()(found) == 0, (query, found)


@pytest.mark.parametrize(("board", "title"), SHOWS, ids=[f"{board}: {title}" for board, title in SHOWS])
def test_a_panel_shows_its_fault_as_a_change(stage: Stage, board: str, title: str) -> None:
    calm, queries = stage.episodes["calm"], PANELS[board, title].queries
    for shows in SHOWS[board, title]:
        episode = stage.episodes[shows.episode]
        query = shows.of.format(asked(queries[shows.query], account=shows.account, __rate_interval=shows.interval))
        before = shows.measure(stage.prometheus.range(query, calm.begin, calm.end))
        during = shows.measure(stage.prometheus.range(query, episode.begin, episode.end))
        assert (during - before) * math.copysign(1, shows.by) >= abs(shows.by), (shows, before, during)


@pytest.mark.parametrize(("board", "title"), PANELS, ids=[f"{board}: {title}" for board, title in PANELS])
def test_every_query_of_a_panel_has_an_answer(stage: Stage, board: str, title: str) -> None:
    for query in PANELS[board, title].queries.values():
        episodes = stage.episodes.values()
        sent = [asked(query, account=account) for account in (stage.here.accounts if board == "account" else [".*"])]
        assert any(stage.prometheus.range(one, when.begin, when.end) for one in sent for when in episodes), query


@pytest.mark.parametrize("board", BOARDS)
def test_variables_offer_what_there_is(stage: Stage, board: str) -> None:
    offered = {}
    for variable in BOARDS[board]["templating"]["list"][1:]:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert found is not None
        series = stage.prometheus.query(asked(found[1]), stage.episodes["calm"].end)
        offered[variable["name"]] = sorted({one.labels[found[2]] for one in series})
    replicas = sorted(map(stage.replica, (stage.one, stage.two)))
    assert offered == {"job": ["gateway"], "replica": replicas, "account": sorted(stage.here.accounts)}


def test_alerts_were_quiet_before_and_then_told_what_happened(stage: Stage) -> None:
    """How long each must hold is tested with promtool; here, that the rules meet what real gateways tell."""

    def alerts(*names: str) -> set[str]:
        found = [
            one
            for name in names
            for one in stage.prometheus.range("ALERTS", stage.episodes[name].begin, stage.episodes[name].end)
        ]
        return {one.labels["alertname"].removeprefix("MesoliveGateway") for one in found}

    assert alerts("calm") == set()
    assert alerts(*stage.episodes) >= {
        "AccountUnauthorized",
        "AccountNotLive",
        "AccountDiverged",
        "DeadLetters",
        "Gap",
        "ReplayFailed",
        "ShardWithoutOwner",
    }


async def test_where_accounts_are_not_told_of_one_by_one_the_worst_still_is(tmp_path: Path) -> None:
    with Prometheus(tmp_path / "prometheus", [RULES]) as prometheus:
        async with house(tmp_path, accounts=2) as here:
            await here.ask(f"PUT /users/{REFUSED}", key="another-key")
            control = await control_of(await here.gateway({"GATEWAY_METRICS__PER_ACCOUNT": "false"}), here.http)
            stage = Stage(here, prometheus, control, control)
            await asyncio.to_thread(prometheus.scrape, [stage.replica(control)])
            await stage.sees('ALERTS{alertname="MesoliveGatewayAccountUnauthorized", state="unauthorized"}')
            await stage.sees("account:mesolive_gateway_lag_seconds:max == 0")  # nobody waits for one that is refused
            await here.ask(f"POST /users/{SILENT}/emit", rate=5.0)
            for (board, title), panel in PANELS.items():
                if board == "overview" and title != "Accounts that need a look":
                    for query in panel.queries.values():
                        await stage.sees(asked(query))
            series = await asyncio.to_thread(prometheus.query, '{account!="", __name__=~"mesolive.*"}', time.time())
            assert series == []
