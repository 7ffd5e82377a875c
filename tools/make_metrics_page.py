"""Prints docs/reference/metrics.md from the metrics themselves: `make schemas` writes it, `make check` compares."""

from __future__ import annotations

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from gateway.events.catalogue import KINDS
from gateway.telemetry.metrics import FAMILIES, OUTCOMES, PREFIX, Family, MetricScope

_INTRODUCTION = f"""# Metrics

For Prometheus, at `/metrics` of the monitoring listener (`monitoring.port`), without a token. All begin with `{PREFIX}`
but those of the process itself (`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds`, …).
What they mean in trouble is in the [runbook](../operate/runbook.md).

<!-- Made by tools/make_metrics_page.py from gateway/telemetry/metrics.py: `make schemas`. -->
"""

_CARDINALITY = f"""
## How many series

What is told of the process is about {len(KINDS) * len(OUTCOMES) + 100} series a replica, whatever the number of
accounts: {len(KINDS) + 1} kinds by {len(OUTCOMES)} outcomes are most of them. Each value that a label may have is there
from the start, with 0, so that an alert sees the first increment; only `http-…` reasons come when they happen.

Of each account there are five series, and one more for each outcome and each reason for a disconnect or a failed
connect that it ever had in this process: seven to ten, as a rule. For 5,000 accounts that is 35,000 to 50,000 series
over all replicas together, since an account is told of by the replica that serves it. A scrape of all 5,000
from one replica takes about 0.4 s on one core and is gathered between events. With `metrics.per_account: false` none of
it is told, but the worst of all running accounts, in the metrics marked so, without the label `account`.
"""


def _kind(family: Family) -> str:
    if family.kind is HistogramMetricFamily:
        return "histogram"
    return "counter" if family.kind is CounterMetricFamily else "gauge"


def _table(title: str, scopes: set[MetricScope]) -> None:
    print(f"\n## {title}\n")
    print("| metric | type | labels | meaning |")
    print("|---|---|---|---|")
    for family in FAMILIES.values():
        if family.scope in scopes:
            labels = ", ".join(f"`{label}`" for label in family.labels)
            worst = " Without `metrics.per_account`: the worst." if family.scope is MetricScope.WORST else ""
            print(f"| `{family.name}` | {_kind(family)} | {labels} | {family.help}{worst} |")


def main() -> None:
    print(_INTRODUCTION, end="")
    _table("Of the process", {MetricScope.PROCESS})
    _table("Of each account", {MetricScope.ACCOUNT, MetricScope.WORST})
    print(_CARDINALITY, end="")


if __name__ == "__main__":
    main()
