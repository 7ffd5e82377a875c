"""The counters of the control plane, a process of its own, which reports them to its parent, the scraped one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from gateway.telemetry.families import Family

ANONYMOUS: Final = "anonymous"
"""The role of a caller without a known token."""
REFUSALS: Final = ("unauthenticated", "forbidden", "origin-not-allowed", "busy")
"""Why a caller may be refused."""
_USUAL: Final = (("viewer", "200"), ("operator", "200"), (ANONYMOUS, "401"))
"""Roles and statuses that are exported from the start."""

CONTROL_FAMILIES: Final = (
    Family(
        "api_requests_total",
        CounterMetricFamily,
        "Requests to the HTTP API by the role of who asked (viewer, operator, or anonymous without a token that is "
        "known) and by status, 0 where the caller was gone before the answer; those pairs that there were, and the "
        "usual ones.",
        ("role", "status"),
    ),
    Family(
        "api_refused_total",
        CounterMetricFamily,
        "Requests to the HTTP API that were refused: unauthenticated, without a token or with one that is not known; "
        "forbidden by the token's role or accounts; origin-not-allowed, without tokens and from elsewhere; busy.",
        ("reason",),
    ),
    Family(
        "tokens_file_problems",
        GaugeMetricFamily,
        "Lines of control.tokens_file that let nobody in for something wrong; 1 where the file cannot be read. "
        "The log names them.",
    ),
    Family(
        "audit_failures_total",
        CounterMetricFamily,
        "Tries to write a change that was made to the audit topic that failed; each is made again until it succeeds.",
    ),
    Family("audit_waiting", GaugeMetricFamily, "Changes that were made and are not on the audit topic yet."),
)

Rows = Iterable[tuple[tuple[str, ...], float]]


class ControlCounters(msgspec.Struct):
    """The counts of one process, or of several one after another."""

    requests: dict[str, dict[str, int]] = {}
    """By role and status."""
    refused: dict[str, int] = {}
    """By reason."""
    tokens_file_problems: int = 0
    audit_failures: int = 0
    audit_waiting: int = 0

    def on_answer(self, role: str, status: int) -> None:
        """Count a request."""
        statuses = self.requests.setdefault(role, {})
        statuses[str(status)] = statuses.get(str(status), 0) + 1

    def on_refusal(self, reason: str) -> None:
        """Count a refusal."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def after(self, before: ControlCounters) -> ControlCounters:
        """Return the counts of the process before together with these; of gauges these alone."""
        roles = before.requests.keys() | self.requests.keys()
        return ControlCounters(
            {role: _sum(before.requests.get(role, {}), self.requests.get(role, {})) for role in roles},
            _sum(before.refused, self.refused),
            self.tokens_file_problems,
            before.audit_failures + self.audit_failures,
            self.audit_waiting,
        )

    def encode(self) -> bytes:
        """Return them as one line."""
        return msgspec.json.encode(self) + b"\n"

    def rows(self) -> dict[str, Rows]:
        """Return the rows of a scrape, by the metric's name."""
        counted = {(role, status): n for role, statuses in self.requests.items() for status, n in statuses.items()}
        return {
            "api_requests_total": sorted((dict.fromkeys(_USUAL, 0) | counted).items()),
            "api_refused_total": [((reason,), n) for reason, n in (dict.fromkeys(REFUSALS, 0) | self.refused).items()],
            "tokens_file_problems": [((), self.tokens_file_problems)],
            "audit_failures_total": [((), self.audit_failures)],
            "audit_waiting": [((), self.audit_waiting)],
        }


def decode_counts(line: bytes) -> ControlCounters:
    """Return what `encode` gave; raises ValueError."""
    return msgspec.json.decode(line, type=ControlCounters)


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in one.keys() | other.keys()}
