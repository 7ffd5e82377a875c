"""Orphaned accounts, which no replica serves although a key exists: the owner of their shard has none.

Shard ownership ignores key files, so such an account is reported, and nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.broker.control_view import STALE_AFTER_S, View
from gateway.state import epoch_of
from gateway.telemetry.logs import get_logger

KEY_MISSING: Final = "key_missing"
ORPHANED: Final = "orphaned"
_ORPHANED_AFTER_S: Final = 15.0
"""Seconds for which it must be so: keys reach replicas one after the other, and shards move."""
_OWNER_STALE_AFTER_S: Final = 20.0
"""Seconds after which a report is too old to show who owns a shard; owners repeat it each 5 s."""


class OrphanedAccounts:
    """Reports each such account once."""

    def __init__(self, view: View, member: str) -> None:
        self._view = view
        self._member = member
        self._since: dict[str, float] = {}
        self._logged: set[str] = set()
        self.names: frozenset[str] = frozenset()
        """Of them, as last updated."""

    def update(self, elsewhere: Iterable[tuple[str, int]], now: float) -> frozenset[str]:
        """Find the orphans among the accounts `elsewhere`, which have keys here and shards that others own."""
        missed = {name: shard for name, shard in elsewhere if not self._is_served(name, shard)}
        self._since = {name: self._since.get(name, now) for name in missed}
        orphaned = {name for name, since in self._since.items() if now - since >= _ORPHANED_AFTER_S}
        for name in sorted(orphaned - self._logged):
            if self._is_owned(missed[name]):
                get_logger(account=name).warning(
                    "account orphaned: this replica has its key file, the owner of its shard has none"
                )
            else:
                get_logger(account=name).warning(
                    "account orphaned: this replica has its key file, its shard has no owner"
                )
        self._logged = orphaned
        self.names = frozenset(orphaned)
        return self.names

    def is_reported_elsewhere(self, name: str, epoch: int) -> bool:
        """Return whether another replica, which has a key of the account, reports that no replica serves it."""
        seen = self._view.observed.get(name)
        if seen is None or seen.value is None or self._view.age(seen) > STALE_AFTER_S:
            return False
        is_anothers = seen.value.state == ORPHANED and seen.value.owner != self._member
        return is_anothers and epoch_of(seen.value) >= epoch

    def _is_owned(self, shard: int) -> bool:
        """Return whether an owner of the shard reports it."""
        owned = self._view.shards.get(str(shard))
        return owned is not None and self._view.age(owned) <= _OWNER_STALE_AFTER_S

    def _is_served(self, name: str, shard: int) -> bool:
        owned, seen = self._view.shards.get(str(shard)), self._view.observed.get(name)
        if owned is None or seen is None or self._view.age(owned) > _OWNER_STALE_AFTER_S:
            return False
        if owned.value is None or seen.value is None:  # a later release wrote it, and its format is unknown here
            return True
        return seen.value.owner == owned.value.owner and seen.value.state not in {KEY_MISSING, ORPHANED}
