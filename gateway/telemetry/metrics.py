"""Metrics for Prometheus, made from the gateway's own counts with each scrape: nothing is counted twice.

One table describes all of them; `docs/reference/metrics.md` is made from it. A metric of the process has no account in
its labels, and every value that a label may have is there from the start: an alert sees the first increment. Each
account has a few series, so that thousands of accounts can be scraped, or only the worst has them where a setting
requires that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, product
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.telemetry.control_counts import CONTROL_FAMILIES, ControlCounters
from gateway.telemetry.counters import Histogram
from gateway.telemetry.exposition import encode, form_for
from gateway.telemetry.families import Family, MetricScope
from gateway.telemetry.replica_metrics import AccountMetrics, ReplicaMetrics

PREFIX: Final = "mesolive_gateway_"
OUTCOMES: Final = ("published", "late", "dead_letter", "filtered", "duplicate", "before_start")
"""What may become of an event."""
PARTS: Final = (
    "account",
    "shard",
    "replay",
    "accounts",
    "view",
    "reports",
    "metrics",
    "ownership",
    "release",
    "provisioning",
)
"""Parts of the gateway that are begun again alone where they fail unexpectedly."""
_Rows = Iterable[tuple[tuple[str, ...], float]]


_GAUGE: Final = GaugeMetricFamily
_COUNTER: Final = CounterMetricFamily
_FAMILIES: Final = (
    Family("build_info", _GAUGE, "1, with the release that runs.", ("version",)),
    Family(
        "accounts",
        _GAUGE,
        "Accounts that this replica serves, by state. Includes `key_missing` (a checkpoint in a shard of this replica, "
        "but no key file) and `orphaned` (this replica has a key file, and the owner of the shard has none).",
        ("state",),
    ),
    Family("hub_connections", _GAUGE, "Open connections to the hub."),
    Family("hub_connects_total", _COUNTER, "Connections to the hub that were made."),
    Family(
        "hub_disconnects_total",
        _COUNTER,
        "Connections to the hub that ended, by reason.",
        ("reason",),
    ),
    Family(
        "hub_connect_failures_total",
        _COUNTER,
        "Attempts to connect to the hub that failed, by reason.",
        ("reason",),
    ),
    Family(
        "events_total",
        _COUNTER,
        "Events by kind and by what became of them: published in order; late, behind newer ones; dead_letter, not "
        "decodable or not accepted by the broker; filtered by the subscription; duplicate of one that is published; "
        "before_start, at or below the sequence that the account began after: not published. The last two count "
        "pushes only, since pages of history overlap by design. Of a commit whose answer was lost only dead letters "
        "are counted, and may be counted again.",
        ("kind", "outcome"),
    ),
    Family(
        "events_without_push_total",
        _COUNTER,
        "Events that an audit of the history found and published though the hub had not pushed them to an account that "
        "was live.",
    ),
    Family(
        "gaps_total",
        _COUNTER,
        "Ranges of the history that the hub no longer had, or could not give, at least: a notification says which.",
    ),
    Family(
        "event_latency_seconds",
        HistogramMetricFamily,
        "From an event's EventTime until it was committed, by the hub's clock: this machine's time is corrected by "
        "hub_clock_offset_seconds. Replays left out.",
    ),
    Family(
        "hub_clock_offset_seconds",
        _GAUGE,
        "By how much the hub's clock is ahead of this machine's (below 0: behind), at least: the median of what the "
        "last 63 answers with a SnapshotTime prove. 0 where nothing is known, or nothing proves otherwise.",
    ),
    Family(
        "commit_duration_seconds",
        HistogramMetricFamily,
        "From the request to commit until the broker's clean answer.",
    ),
    Family("commit_messages", HistogramMetricFamily, "Messages in one commit."),
    Family(
        "commit_failures_total",
        _COUNTER,
        "Commits that were refused, fenced or not answered: the log was opened again, and what is stored was read.",
    ),
    Family("fenced_writers_total", _COUNTER, "Writers of this replica that another gateway had replaced."),
    Family("shards", _GAUGE, "Shards that there are, of all replicas together."),
    Family("shards_owned", _GAUGE, "Shards that this replica was given to serve."),
    Family(
        "replays", _GAUGE, "Replays by state: every replica knows all of them. Absent until it has heard.", ("state",)
    ),
    Family("replays_finished_total", _COUNTER, "Replays that this replica brought to an end, by state.", ("state",)),
    Family("buffer_bytes", _GAUGE, "Bytes of events that wait here for the broker, or are on their way from the hub."),
    Family("buffer_limit_bytes", _GAUGE, "The most that these may be (`memory_bytes`)."),
    Family(
        "broker_action_required",
        _GAUGE,
        "1 while the broker does not meet the requirements and only a person can fix that, else 0.",
    ),
    Family(
        "commit_window_bytes",
        _GAUGE,
        "The most that is committed at once, as the broker and the line to it have taken it in good time.",
    ),
    Family("commit_in_flight_bytes", _GAUGE, "Bytes of the commits that are in flight, in their first second."),
    Family("buffer_waiters", _GAUGE, "Pages of the history that wait until there is room for them."),
    Family("buffer_wait_seconds", _GAUGE, "For how long the one of them waits that began first; 0 where none does."),
    Family(
        "store_losses_total",
        _COUNTER,
        "Times that an account's checkpoint was found to be older than the one that the broker had acknowledged, or "
        "gone, or to cover events that are gone: the broker lost its end, as in a power cut.",
    ),
    Family(
        "unknown_writers_total",
        _COUNTER,
        "Changes of what operators want that this replica obeyed and that did not come through the API: somebody else "
        "writes to the broker, or an earlier release does.",
    ),
    Family(
        "unexpected_errors_total",
        _COUNTER,
        "Faults of the gateway that it went on after, by the part of it that was begun again: one account, shard or "
        "replay; or what the replica does for all: it looks for keys (accounts), follows desired state (view), "
        "reports, counts an account for a scrape (metrics), and takes and gives back shards (ownership, release).",
        ("part",),
    ),
    *CONTROL_FAMILIES,
    Family(
        "lag_sequences",
        _GAUGE,
        "EventSeqIds that the hub has and that are not committed: at most, since sequences may have holes.",
        ("account",),
        MetricScope.WORST,
    ),
    Family(
        "lag_seconds",
        _GAUGE,
        "For how long the log has not had all that the hub had. 0 for an account that is live and has everything; it "
        "grows while that cannot be known, as without a connection, or while the hub does not answer what its latest "
        "is. It begins at 0 with the replica that serves the account now. The worst leaves out accounts that are "
        "paused, unauthorized or diverged.",
        ("account",),
        MetricScope.WORST,
    ),
    Family(
        "hub_last_record_timestamp_seconds",
        _GAUGE,
        "When the hub said anything last over the account's connection, a ping included; Unix time by this machine's "
        "clock. A hub with nothing to say still pings. The worst is the oldest of those that are connected.",
        ("account",),
        MetricScope.WORST,
    ),
    Family(
        "verified_sequence",
        _GAUGE,
        "The EventSeqId up to which everything is committed and the hub's history is final.",
        ("account",),
        MetricScope.ACCOUNT,
    ),
    Family("account_state", _GAUGE, "1, with the account's present state.", ("account", "state"), MetricScope.ACCOUNT),
    Family(
        "account_events_total",
        _COUNTER,
        "Events of the account by what became of them, as in events_total, and gaps; those outcomes that there were.",
        ("account", "outcome"),
        MetricScope.ACCOUNT,
    ),
    Family(
        "account_disconnects_total",
        _COUNTER,
        "Connections of the account to the hub that ended; only reasons that occurred.",
        ("account", "reason"),
        MetricScope.ACCOUNT,
    ),
    Family(
        "account_connect_failures_total",
        _COUNTER,
        "Attempts to connect the account to the hub that failed; only reasons that occurred.",
        ("account", "reason"),
        MetricScope.ACCOUNT,
    ),
)
FAMILIES: Final[Mapping[str, Family]] = {family.name: family for family in _FAMILIES}
"""Name → metric, in the order in which they are exported."""


class _ScrapeCollector(Collector):
    """The result of one scrape."""

    def __init__(
        self, numbers: ReplicaMetrics | None, control: ControlCounters, shards: int, *, per_account: bool
    ) -> None:
        self._numbers = numbers
        self._control = control
        self._shards = shards
        self._per_account = per_account

    def collect(self) -> Iterator[Metric]:
        yield _metric("build_info", [((__version__,), 1)])
        if self._numbers is None:  # it waits for the broker, and owns none of its shards
            yield _metric("shards", _one(self._shards))
            yield _metric("shards_owned", _one(0))
            yield from (_metric(name, found) for name, found in self._control.rows().items())
            return
        rows = self._rows(self._numbers)
        for family in FAMILIES.values():
            found = rows.get(family.name)
            if isinstance(found, Histogram):
                histogram = HistogramMetricFamily(PREFIX + family.name, family.help)
                histogram.add_metric([], list(found.buckets()), found.sum)
                yield histogram
            elif found is not None:
                yield _metric(family.name, found, has_labels=family.scope is not MetricScope.WORST or self._per_account)

    def _rows(self, numbers: ReplicaMetrics) -> dict[str, _Rows | Histogram]:
        counters, accounts = numbers.counters, numbers.accounts
        states = dict.fromkeys(numbers.states, 0)
        for state in chain((one.state for one in accounts), numbers.orphaned.values()):
            states[state] += 1
        events = dict.fromkeys(product(numbers.kinds, OUTCOMES), 0) | counters.events
        rows: dict[str, _Rows | Histogram] = {
            "accounts": _by(states),
            "hub_connections": _one(sum(one.is_connected for one in accounts)),
            "hub_connects_total": _one(counters.connects),
            "hub_disconnects_total": _by(dict.fromkeys(numbers.disconnect_reasons, 0) | counters.disconnects),
            "hub_connect_failures_total": _by(
                dict.fromkeys(numbers.connect_failure_reasons, 0) | counters.connect_failures
            ),
            "events_total": events.items(),
            "events_without_push_total": _one(counters.unpushed),
            "gaps_total": _one(counters.gaps),
            "event_latency_seconds": counters.latencies,
            "hub_clock_offset_seconds": _one(counters.hub_offset.seconds),
            "commit_duration_seconds": counters.commit_seconds,
            "commit_messages": counters.commit_messages,
            "commit_failures_total": _one(counters.failures),
            "fenced_writers_total": _one(counters.fenced),
            "shards": _one(numbers.shards),
            "shards_owned": _one(numbers.owned),
            "replays_finished_total": _by(dict.fromkeys(numbers.endings, 0) | counters.replays),
            "buffer_bytes": _one(numbers.buffer),
            "buffer_limit_bytes": _one(numbers.buffer_limit),
            "broker_action_required": _one(numbers.action_required),
            "commit_window_bytes": _one(numbers.window),
            "commit_in_flight_bytes": _one(numbers.in_flight),
            "buffer_waiters": _one(numbers.waiters),
            "buffer_wait_seconds": _one(numbers.waits),
            "store_losses_total": _one(counters.went_back),
            "unknown_writers_total": _one(counters.unknown_writers),
            "unexpected_errors_total": _by(dict.fromkeys(PARTS, 0) | counters.unexpected),
        }
        rows |= self._control.rows()
        if numbers.replays is not None:
            rows["replays"] = _by(numbers.replays)
        return rows | (_each(numbers) if self._per_account else _worst(accounts))


def _each(numbers: ReplicaMetrics) -> dict[str, _Rows | Histogram]:
    accounts = numbers.accounts
    states = chain(((one.account, one.state) for one in accounts), numbers.orphaned.items())
    return {
        "lag_sequences": (((one.account,), one.lag) for one in accounts),
        "lag_seconds": (((one.account,), one.lag_seconds) for one in accounts),
        "hub_last_record_timestamp_seconds": (
            ((one.account,), one.last_received_at) for one in accounts if one.last_received_at is not None
        ),
        "verified_sequence": (((one.account,), one.verified) for one in accounts),
        "account_state": ((row, 1) for row in states),
        "account_events_total": chain.from_iterable(_of(one.account, one.outcomes) for one in accounts),
        "account_disconnects_total": chain.from_iterable(_of(one.account, one.disconnects) for one in accounts),
        "account_connect_failures_total": chain.from_iterable(
            _of(one.account, one.connect_failures) for one in accounts
        ),
    }


def _worst(accounts: Collection[AccountMetrics]) -> dict[str, _Rows | Histogram]:
    running = [one for one in accounts if one.is_awaited]
    oldest = min(
        (one.last_received_at for one in accounts if one.is_connected and one.last_received_at is not None),
        default=None,
    )
    return {
        "lag_sequences": _one(max((one.lag for one in running), default=0)),
        "lag_seconds": _one(max((one.lag_seconds for one in running), default=0)),
        "hub_last_record_timestamp_seconds": () if oldest is None else _one(oldest),
    }


def _one(value: float) -> _Rows:
    return (((), value),)


def _by(counts: Mapping[str, int]) -> _Rows:
    return (((label,), count) for label, count in counts.items())


def _of(account: str, counts: Mapping[str, int]) -> _Rows:
    return (((account, label), count) for label, count in counts.items())


def _metric(name: str, rows: _Rows, *, has_labels: bool = True) -> Metric:
    family = FAMILIES[name]
    kind = CounterMetricFamily if family.kind is CounterMetricFamily else GaugeMetricFamily
    metric = kind(PREFIX + name, family.help, labels=family.labels if has_labels else ())
    for labels, value in rows:
        metric.add_metric(labels, value)
    return metric


class Metrics:
    """What is scraped."""

    def __init__(self, shards: int, *, per_account: bool = True, process: int | None = None) -> None:
        """`shards` is how many there are of all replicas together; `per_account` exports accounts one by one.

        `process` is the process whose memory and CPU are exported: this one's unless another is named.
        """
        self._shards = shards
        self._per_account = per_account
        self._process = ProcessCollector(pid=lambda: "self" if process is None else process, registry=None)

    @staticmethod
    def media_type(accept: str) -> str:
        """Return the media type of the text for a scraper that sends `accept`; it may be given to `text` as well."""
        return form_for(accept)

    def text(
        self, numbers: ReplicaMetrics | None, accept: str, control: ControlCounters | None = None
    ) -> tuple[str, bytes]:
        """Return them, and their media type, as the scraper that sends `accept` reads them; None: nothing runs yet.

        `control` is what the control plane has counted. With thousands of accounts it takes a while, and may be called
        on another thread.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self._process)
        registry.register(
            _ScrapeCollector(numbers, control or ControlCounters(), self._shards, per_account=self._per_account)
        )
        media_type = form_for(accept)
        return media_type, encode(registry, media_type)
