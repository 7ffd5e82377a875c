"""What a watch of the control store has yielded, so that it may read from the beginning and yield only what is new."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable
from typing import Final, Generic, TypeVar

from gateway.broker.ports import Record

log = logging.getLogger(__name__)

_NAMED: Final = 10
"""Maximum keys that a log line names."""

Place = TypeVar("Place", bound="tuple[float, ...]")


class WatchPosition(Generic[Place]):
    """The records of a control store that one watch has yielded.

    A watch reads the store from its beginning after every trouble. A store that went back in time, as after a power
    cut, has older records than were yielded, and others are missing. The broker's places alone could not show it, since
    later writes could hide it.
    """

    def __init__(self) -> None:
        self._given: dict[tuple[bool, str], Place] = {}
        self._left: set[tuple[bool, str]] = set()
        self._older: set[tuple[bool, str]] = set()
        self._has_synced = False

    def begin(self) -> None:
        """Note that the store is read from its beginning."""
        self._left, self._older = set(self._given), set()

    def changes(self, record: Record | None, place: Place) -> list[Record | None]:
        """Return what is to be given for a record at `place`, or for None where all is read that there is now.

        That is a forgotten record for each that is gone, and None the first time.
        """
        if record is not None:
            return [record] if self._is_new(record, place) else []
        synced: list[Record | None] = [*self._gone()]
        if not self._has_synced:
            self._has_synced = True
            synced.append(None)
        return synced

    def _is_new(self, record: Record, place: Place) -> bool:
        """Return whether a record is to be given: not if it was, at the same `place` and time."""
        which = record.is_observed, record.key
        self._left.discard(which)
        given = self._given.get(which)
        if given == place:
            return False
        if given is not None and given > place:
            self._older.add(which)
        if record.revision:
            self._given[which] = place
        else:  # it is forgotten, and so is its marker one day
            self._given.pop(which, None)
        return True

    def _gone(self) -> list[Record]:
        """Return a forgotten record for each that is not there any more."""
        gone = sorted(self._left)
        if gone or self._older:
            wanted = _named(key for is_observed, key in {*gone, *self._older} if not is_observed)
            log.log(
                logging.ERROR if wanted else logging.WARNING,
                "control store was purged, was re-created or went back in time: %d records are gone, %d are older; the "
                "last changes may have to be repeated for: %s",
                len(gone),
                len(self._older),
                wanted or "none",
            )
        for which in gone:
            del self._given[which]
        self._left, self._older = set(), set()
        return [Record(key, b"", 0, is_observed, age=0.0) for is_observed, key in gone]


def _named(keys: Iterable[Hashable]) -> str:
    names = sorted(str(key) for key in keys)
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
