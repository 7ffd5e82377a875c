"""The description of a metric: its name, its kind, its labels, and its scope."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from prometheus_client.core import Metric


class MetricScope(Enum):
    """What a metric describes."""

    PROCESS = "process"
    ACCOUNT = "account"
    """Of one account, and told where `metrics.per_account` is true."""
    WORST = "worst"
    """Of one account; where `metrics.per_account` is false, of the worst, without a label."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric."""

    name: str
    """Without the prefix."""
    kind: type[Metric]
    help: str
    labels: tuple[str, ...] = ()
    scope: MetricScope = MetricScope.PROCESS
