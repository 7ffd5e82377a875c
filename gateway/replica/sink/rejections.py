"""Messages that the broker refuses, each alone: set aside so that others go on, and dead letters if only they fail.

A broker that changes its leader, or is misconfigured, refuses sound messages too. So a message becomes a dead letter
only where it was refused several times, over several seconds, and once more after something else was stored.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from gateway.session.types import OutgoingItem

_TIMES: Final = 3
_FOR: Final = 10.0
"""Seconds between the first refusal and the last before a message is dead-lettered."""
_LONGEST_REST: Final = 5.0
_FORGOTTEN: Final = 60.0
"""Seconds after which a message that did not return is no suspect any more: its account may have been reset."""


@dataclass(slots=True)
class _Suspect:
    item: OutgoingItem
    since: float
    """When it was refused first."""
    last: float
    times: int = 1
    again_at: float = 0.0
    """When it is tried again; until then its account is left out."""
    others_go: bool = False
    """Whether the broker took something else of the shard since."""
    is_alone: bool = False
    """Whether it was refused again after that."""


def _source(item: OutgoingItem) -> str:
    """Return the source of a message: an account, or a replay, which has a place of its own in commits."""
    return item.content.account if item.replay is None else item.replay.replay


class Rejections:
    """What was refused in one shard: one message of each account and replay, as their messages go in order."""

    def __init__(self) -> None:
        self._suspects: dict[str, _Suspect] = {}

    def is_set_aside(self, now: float) -> Collection[str]:
        """Return the accounts that are left out just now."""
        return [name for name, one in self._suspects.items() if one.item.replay is None and now < one.again_at]

    def is_due(self, now: float, ready: Collection[str]) -> str | None:
        """Return an account whose next message is to be tried, alone."""
        for name in [name for name, one in self._suspects.items() if now >= one.again_at + _FORGOTTEN]:
            del self._suspects[name]
        due = (name for name, suspect in self._suspects.items() if now >= suspect.again_at and name in ready)
        return next(due, None)  # a replay's id is never among them

    def on_rejected(self, item: OutgoingItem, now: float) -> float:
        """A message was refused, alone; return the seconds after which it is tried again."""
        name = _source(item)
        suspect = self._suspects.get(name)
        if suspect is not None and suspect.item == item:
            suspect.last, suspect.times = now, suspect.times + 1
            suspect.is_alone = suspect.others_go
        else:
            suspect = self._suspects[name] = _Suspect(item, now, now)
        rest = min(_LONGEST_REST, 2.0 ** (suspect.times - 1))
        suspect.again_at = now + rest
        return rest

    def on_stored(self, items: Collection[OutgoingItem]) -> None:
        """A commit with these was stored; nearly always nothing is suspected."""
        if not self._suspects:
            return
        for name in {_source(item) for item in items} & self._suspects.keys():
            if self._suspects[name].item in items:
                del self._suspects[name]
        if items:
            for suspect in self._suspects.values():
                suspect.others_go = True

    def wants_proof(self, now: float) -> list[str]:
        """Return the accounts whose messages are refused for long enough, while no other had anything."""
        return [name for name, one in self._suspects.items() if not one.others_go and now - one.since >= _FOR]

    def on_proven(self, name: str) -> None:
        """The broker takes something else of this account."""
        if name in self._suspects:
            self._suspects[name].others_go = True

    def must_dead_letter(self, item: OutgoingItem) -> bool:
        """Return whether a message, which is about to be tried alone, is to become a dead letter.

        What counts is when it was refused last: while it rested, the broker may have become well.
        """
        one = self._suspects.get(_source(item))
        if one is None or one.item != item:
            return False
        return one.is_alone and one.times >= _TIMES and one.last - one.since >= _FOR

    def forget(self, name: str) -> None:
        """An account goes."""
        self._suspects.pop(name, None)
