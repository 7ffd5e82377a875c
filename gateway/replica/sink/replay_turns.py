"""The turns of replays in commits: behind everything new, and after a failure alone and not at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

_MAX_REST_S: Final = 60.0
"""Maximum seconds after which replays are tried again whose commits failed."""


class ReplayTurns:
    """The turns of one shard's replays: a new event must not wait twice for a commit that fails because of a replay."""

    __slots__ = ("_after", "_rest", "_wake", "must_be_alone")

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called when a rest is over."""
        self._wake = wake
        self._rest = self._after = 0.0
        self.must_be_alone = False
        """Whether a commit with something of a replay failed, maybe because of that."""

    def may_go(self, *, has_others: bool) -> bool:
        """Return whether replays may have a part of a commit; `has_others` is whether something else has one."""
        return asyncio.get_running_loop().time() >= self._after and not (self.must_be_alone and has_others)

    def on_failed(self) -> None:
        """A commit with something of a replay failed."""
        loop = asyncio.get_running_loop()
        self._rest = min(_MAX_REST_S, max(1.0, 2 * self._rest))
        self._after, self.must_be_alone = loop.time() + self._rest, True
        loop.call_later(self._rest, self._wake)

    def on_stored(self) -> None:
        """A commit with something of a replay was stored."""
        self._rest, self.must_be_alone = 0.0, False
