"""Accounts that nobody serves, although there is a key: the replica that has their shard has none.

Who serves a shard is decided without a look at anybody's keys, so such an account is told of, and nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.broker.control_view import STALE, View
from gateway.state import epoch_of
from gateway.telemetry.logs import get_logger

KEYLESS: Final = "keyless"
UNSERVED: Final = "unserved"
_PATIENCE: Final = 15.0
"""Seconds for which it must be so: keys reach replicas one after the other, and shards move."""
_STALE: Final = 20.0
"""Seconds after which a report is too old to tell whose a shard is; owners repeat it each 5 s."""


class Unserved:
    """Tells of each such account once."""

    def __init__(self, view: View, member: str) -> None:
        self._view = view
        self._member = member
        self._since: dict[str, float] = {}
        self._told: set[str] = set()

    def look(self, elsewhere: Iterable[tuple[str, int]], now: float) -> frozenset[str]:
        """Give those of the accounts `elsewhere`, with keys here and shards that are others', that nobody serves."""
        missed = {name for name, shard in elsewhere if not self._is_served(name, shard)}
        self._since = {name: self._since.get(name, now) for name in missed}
        unserved = {name for name, since in self._since.items() if now - since >= _PATIENCE}
        for name in sorted(unserved - self._told):
            get_logger(account=name).warning(
                "the account has a key here, and the gateway that its shard belongs to has none: nobody serves it"
            )
        self._told = unserved
        return frozenset(unserved)

    def is_told(self, name: str, epoch: int) -> bool:
        """Tell whether another replica, which has a key of the account, says that nobody serves it."""
        seen = self._view.observed.get(name)
        if seen is None or seen.said is None or self._view.age(seen) > STALE:
            return False
        is_anothers = seen.said.state == UNSERVED and seen.said.owner != self._member
        return is_anothers and epoch_of(seen.said) >= epoch

    def _is_served(self, name: str, shard: int) -> bool:
        owned, seen = self._view.shards.get(str(shard)), self._view.observed.get(name)
        if owned is None or seen is None or self._view.age(owned) > _STALE:
            return False
        if owned.said is None or seen.said is None:  # a later release wrote it: it knows better
            return True
        return seen.said.owner == owned.said.owner and seen.said.state not in {KEYLESS, UNSERVED}
