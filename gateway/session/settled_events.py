"""Which event settled a number lately, so that another one of the same number is not taken for it.

Only a bounded number is remembered, and nothing over a restart: there the identities of the checkpoint must do
(`Identities`).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from gateway.events.event import DeadLetter
from gateway.session.facts import Content

_MOST: Final = 4096
"""Events that are remembered; of more than that above `verified`, only the number decides."""
_KEPT: Final = 32
"""Those of them that are remembered once they are verified."""


class Sight(Enum):
    """What a second sight of a number is."""

    SAME = "same"
    """The event that settled it, as far as can be told."""
    WHOLE = "whole"
    """It was settled as a dead letter, and this is an event."""
    CORRECTED = "corrected"
    """It has the same EventId and says something else."""
    ANOTHER = "another"


class SettledEvents:
    """EventIds and fingerprints by number, in the order in which they were settled."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[str | None, int | None]] = {}

    def note(self, sequence: int, content: Content) -> None:
        """Remember that `content` settles `sequence`."""
        self._known[sequence] = content.id, fingerprint(content)
        if len(self._known) > _MOST:
            del self._known[next(iter(self._known))]

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._known

    def id_of(self, sequence: int) -> str | None:
        """Return the EventId of what settled `sequence`; None where it has none or is not remembered."""
        return self._known.get(sequence, (None, None))[0]

    def compare(self, sequence: int, content: Content) -> Sight:
        """Tell what `content`, of a number that is remembered, is."""
        return _compare(*self._known[sequence], content)

    def drop_through(self, verified: int) -> None:
        """Forget what is verified, but for the last few."""
        while len(self._known) > _KEPT and (first := next(iter(self._known))) <= verified:
            del self._known[first]


def compare(first: Content, content: Content) -> Sight:
    """Tell what `content` is, beside a first sight of its number."""
    return _compare(first.id, fingerprint(first), content)


def fingerprint(content: Content) -> int | None:
    """Return a number that is the same for equal events, whichever of both ids a sight lacks, in this process alone.

    None for a dead letter: pushes and history write the same one differently.
    """
    if isinstance(content, DeadLetter):
        return None
    body = content.body
    return hash(body[max(0, body.find(b'"EventTime"')) :])


def _compare(known_id: str | None, known: int | None, content: Content) -> Sight:
    if known_id is not None and content.id is not None and known_id != content.id:
        return Sight.ANOTHER
    if isinstance(content, DeadLetter):
        return Sight.SAME
    if known is None:
        return Sight.WHOLE
    if known == fingerprint(content):
        return Sight.SAME
    return Sight.CORRECTED if known_id == content.id and known_id is not None else Sight.ANOTHER
