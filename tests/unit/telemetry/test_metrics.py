"""What Prometheus is told: every metric, each label's values from the start, and accounts one by one or the worst."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from gateway.replica.account_metrics import CONNECT_FAILURE_REASONS, DISCONNECT_REASONS
from gateway.telemetry.control_counts import CONTROL_FAMILIES
from gateway.telemetry.counters import Counters, Histogram
from gateway.telemetry.metrics import FAMILIES, OUTCOMES, PREFIX, Metrics, MetricScope
from gateway.telemetry.replica_metrics import AccountMetrics, ReplicaMetrics

ROOT = Path(__file__).parents[3]
CALM = AccountMetrics(
    account="calm",
    state="live",
    is_awaited=True,
    lag=0,
    lag_seconds=0.0,
    last_received_at=2_000.0,
    is_connected=True,
    verified=90,
    disconnects={},
    connect_failures={},
    outcomes={"published": 40},
)
BEHIND = replace(
    CALM,
    account="behind",
    lag=7,
    lag_seconds=3.5,
    last_received_at=1_000.0,
    disconnects={"silent": 2},
    connect_failures={"timeout": 3},
    outcomes={"late": 1},
)
PAUSED = replace(
    CALM,
    account="paused",
    state="paused",
    is_awaited=False,
    lag=99,
    lag_seconds=500.0,
    last_received_at=1.0,
    is_connected=False,
)
NUMBERS = ReplicaMetrics(
    counters=Counters(),
    accounts=[CALM, BEHIND, PAUSED],
    orphaned={"lonely": "key_missing"},
    states=["live", "paused", "unauthorized", "key_missing"],
    disconnect_reasons=DISCONNECT_REASONS,
    connect_failure_reasons=CONNECT_FAILURE_REASONS,
    kinds=["order-update", "unknown"],
    shards=64,
    owned=32,
    replays={"running": 1, "failed": 0},
    endings=["completed", "failed"],
    buffer=10,
    buffer_limit=100,
    action_required=True,
    window=65536,
    in_flight=4096,
    waiters=2,
    waits=1.5,
)


def reported(numbers: ReplicaMetrics | None = NUMBERS, *, per_account: bool = True) -> dict[tuple[str, ...], float]:
    """Return each sample by its name without the prefix and the values of its labels."""
    media_type, text = Metrics(64, per_account=per_account).text(numbers, "")
    assert media_type.startswith("text/plain; version=0.0.4")
    return {
        (sample.name.removeprefix(PREFIX), *sample.labels.values()): sample.value
        for family in plain(text.decode())
        for sample in family.samples
    }


def test_every_metric_of_the_table_is_told_with_its_labels() -> None:
    _, text = Metrics(64).text(NUMBERS, "")
    found = {family.name.removeprefix(PREFIX): family for family in plain(text.decode()) if PREFIX in family.name}
    assert set(found) == {name.removesuffix("_total") for name in FAMILIES}
    for name, family in FAMILIES.items():
        samples = found[name.removesuffix("_total")].samples
        assert samples, name
        labels = {label for sample in samples for label in sample.labels} - {"le"}
        assert labels == set(family.labels), name
        assert found[name.removesuffix("_total")].documentation == family.help


def test_openmetrics_is_given_to_whom_asks_for_it() -> None:
    media_type, text = Metrics(64).text(NUMBERS, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert media_type.startswith("application/openmetrics-text")
    assert f"{PREFIX}events" in {family.name for family in openmetrics(text.decode())}


ASKED_FOR = [
    "",
    "*/*",
    "text/plain; version=1.0.0; escaping=dots",
    "text/plain; version=1e999",
    "text/plain;version=-;q=0.1",
    "application/openmetrics-text",
    "application/openmetrics-text; version=1.0.0; escaping=allow-utf-8",
    "application/openmetrics-text; version=2.0.0",
    "application/openmetrics-text; version=0.0.1, text/plain",
    "application/openmetrics-text; version=abc",
    "application/openmetrics-text; version=\x1b[2J, text/plain; version=²",
    *(f"application/openmetrics-text; version=1.0.{number}" for number in range(100)),
]


def test_whatever_a_scraper_asks_for_there_are_two_forms_in_fixed_words() -> None:
    metrics = Metrics(64)
    found = {metrics.text(NUMBERS, accept)[0] for accept in ASKED_FOR}
    assert found == {metrics.media_type(accept) for accept in ASKED_FOR}
    assert found == {
        "text/plain; version=0.0.4; charset=utf-8",
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    }
    for media_type in found:  # it stands for the form that it names
        assert metrics.text(NUMBERS, media_type)[0] == media_type


def test_each_value_of_a_label_of_the_process_is_there_from_the_start() -> None:
    now = reported()
    assert [now["events_total", kind, outcome] for kind in NUMBERS.kinds for outcome in OUTCOMES] == [0] * 12
    assert {now["hub_disconnects_total", reason] for reason in DISCONNECT_REASONS} == {0}
    assert {now["hub_connect_failures_total", reason] for reason in CONNECT_FAILURE_REASONS} == {0}
    assert now["accounts", "unauthorized"] == 0
    assert now["replays_finished_total", "failed"] == now["gaps_total",] == now["fenced_writers_total",] == 0


def test_what_is_counted_of_the_process_is_told() -> None:
    counters = Counters(connects=3, gaps=2, fenced=1, failures=4)
    counters.events["order-update", "published"] += 5
    counters.disconnects["silent"] += 8
    counters.connect_failures["http-503"] += 6
    counters.replays["failed"] += 7
    counters.commit_messages.observe(3)
    counters.latencies.observe_all([0.005, 0.02, 4_000.0])
    now = reported(replace(NUMBERS, counters=counters))
    assert now["events_total", "order-update", "published"] == 5
    assert now["hub_disconnects_total", "silent"] == 8
    assert now["hub_connect_failures_total", "http-503"] == 6
    assert now["replays_finished_total", "failed"] == 7
    assert (now["hub_connects_total",], now["gaps_total",], now["fenced_writers_total",]) == (3, 2, 1)
    assert now["commit_failures_total",] == 4
    assert now["commit_messages_bucket", "3.0"] == 1
    assert [now["event_latency_seconds_bucket", bound] for bound in ("0.005", "0.01", "0.025", "1800.0", "+Inf")] == [
        *(1, 1, 2, 2, 3)
    ]
    assert now["event_latency_seconds_sum",] == pytest.approx(4_000.025)
    assert (now["shards",], now["shards_owned",], now["replays", "running"]) == (64, 32, 1)
    assert (now["buffer_bytes",], now["buffer_limit_bytes",]) == (10, 100)


def test_accounts_are_told_of_one_by_one() -> None:
    now = reported()
    assert (now["accounts", "live"], now["accounts", "paused"], now["accounts", "key_missing"]) == (2, 1, 1)
    assert now["hub_connections",] == 2
    assert (now["lag_sequences", "behind"], now["lag_seconds", "behind"]) == (7, 3.5)
    assert now["hub_last_record_timestamp_seconds", "calm"] == 2_000
    assert now["verified_sequence", "calm"] == 90
    assert now["account_state", "paused", "paused"] == now["account_state", "lonely", "key_missing"] == 1
    assert now["account_events_total", "behind", "late"] == 1
    assert now["account_disconnects_total", "behind", "silent"] == 2
    assert now["account_connect_failures_total", "behind", "timeout"] == 3


def test_without_accounts_the_worst_is_told_and_none_is_named() -> None:
    now = reported(per_account=False)
    assert (now["lag_sequences",], now["lag_seconds",]) == (7, 3.5)  # the paused one is not waited for
    assert now["hub_last_record_timestamp_seconds",] == 1_000  # of those that are connected
    assert not {"calm", "behind", "paused", "lonely"} & {
        part for key in now for part in key[1:] if key[0] != "accounts"
    }
    assert not {name for name, family in FAMILIES.items() if family.scope is MetricScope.ACCOUNT} & {
        key[0] for key in now
    }
    assert now["accounts", "live"] == 2


def test_without_any_account_nobody_is_behind() -> None:
    now = reported(replace(NUMBERS, accounts=[]), per_account=False)
    assert (now["lag_sequences",], now["lag_seconds",]) == (0, 0)
    assert ("hub_last_record_timestamp_seconds",) not in now


def test_before_anything_runs_only_the_process_is_told_of() -> None:
    now = reported(None)
    control = {family.name for family in CONTROL_FAMILIES}
    found = {key[0] for key in now if not key[0].startswith("process_")}
    assert found == {"build_info", "shards", "shards_owned"} | control
    assert (now["shards",], now["shards_owned",]) == (64, 0)  # it waits for the broker: nobody serves them
    assert now["process_resident_memory_bytes",] > 0


def test_replays_are_told_of_once_they_are_known() -> None:
    assert not [key for key in reported(replace(NUMBERS, replays=None)) if key[0] == "replays"]


def test_series_of_thousands_of_accounts_are_as_many_as_the_page_says() -> None:
    usual = [
        replace(CALM, account=f"account-{number}", outcomes={"published": 1, "duplicate": 1}, disconnects={"closed": 1})
        for number in range(5_000)
    ]
    _, text = Metrics(64).text(replace(NUMBERS, accounts=usual), "")
    series = Counter(line.partition("{")[0] for line in text.decode().splitlines() if 'account="account-' in line)
    assert sum(series.values()) == 5_000 * 8
    assert "35,000 to 50,000 series" in (ROOT / "docs/reference/metrics.md").read_text("utf-8")


def test_values_of_labels_are_quoted() -> None:
    odd = 'a"b\\c\nd'
    assert reported(replace(NUMBERS, accounts=[replace(CALM, account=odd)]))["lag_sequences", odd] == 0


def test_a_value_is_counted_up_to_the_bound_that_it_equals() -> None:
    distribution = Histogram((1, 2))
    distribution.observe(1)
    distribution.observe_all([1.5, 2, 3])
    assert list(distribution.buckets()) == [("1.0", 1), ("2.0", 3), ("+Inf", 4)]
    assert distribution.sum == 7.5


def test_a_copy_of_the_counts_stays_as_it_is() -> None:
    counters = Counters(gaps=1)
    counters.events["order-update", "published"] += 1
    counters.latencies.observe(0.01)
    copied = counters.copy()
    counters.gaps += 1
    counters.events["order-update", "published"] += 1
    counters.latencies.observe(0.01)
    assert (copied.gaps, copied.events["order-update", "published"]) == (1, 1)
    assert dict(copied.latencies.buckets())["+Inf"] == 1
    assert dict(counters.latencies.buckets())["+Inf"] == 2


def test_names_and_units_are_those_that_prometheus_wants() -> None:
    for name, family in FAMILIES.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (family.kind.__name__ == "CounterMetricFamily"), name
        assert family.help.endswith("."), name
