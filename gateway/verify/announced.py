"""What the log announced of an account: its subscriptions and its resets, read from its notifications."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

Strategies = frozenset[int] | None
"""None for all."""


@dataclass(slots=True)
class Announced:
    """Which strategies were wanted from which sequence on, and where each incarnation began."""

    before: Strategies = None
    """What held before the first announcement."""
    begins: dict[int, int] = field(default_factory=dict)
    """By incarnation: the sequence after which it began, where a reset names it."""
    changes: dict[int, list[tuple[int, Strategies]]] = field(default_factory=dict)
    """By incarnation: from which sequence on which strategies were wanted, in rising order."""

    def add(self, incarnation: int, value: bytes) -> None:
        """Take a notification, in the order of the log."""
        notification = json.loads(value)
        match notification.get("Type"):
            case "checkpoint-reset":
                self.begins[incarnation] = int(notification["SinceSeqId"])
                if "Strategies" in notification:
                    self.changes[incarnation] = [(0, read_strategies(notification["Strategies"]))]
            case "subscription-changed":
                since = int(notification["FromSeqId"])
                held = [change for change in self.changes.get(incarnation, ()) if change[0] < since]
                self.changes[incarnation] = [*held, (since, read_strategies(notification["Strategies"]))]

    def wants(self, incarnation: int, sequence: int, strategy: int | None) -> bool:
        """Return whether an event of a strategy was to be published; one that names none always is."""
        if strategy is None:
            return True
        wanted = self._newest_before(incarnation)
        for since, strategies in self.changes.get(incarnation, ()):
            if since <= sequence:
                wanted = strategies
        return wanted is None or strategy in wanted

    def _newest_before(self, incarnation: int) -> Strategies:
        """Return what held at the end of the incarnations before."""
        earlier = [changes[-1][1] for known, changes in sorted(self.changes.items()) if known < incarnation]
        return earlier[-1] if earlier else self.before


def announced(notifications: Iterable[tuple[int, bytes]], before: Strategies = None) -> Announced:
    """Read notifications, each with its incarnation, in the order of the log."""
    found = Announced(before)
    for incarnation, value in notifications:
        found.add(incarnation, value)
    return found


def read_strategies(text: str | None) -> Strategies:
    """Read strategies as notifications name them, `1,2`, None for all; raises ValueError for what is no number."""
    return None if text is None else frozenset(map(int, filter(None, text.split(","))))
