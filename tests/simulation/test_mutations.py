"""Each part that the promises rest on, taken away: the simulation must notice, or it proves nothing.

Each fault is a session that lacks one thing, driven by the same lives and judged by the same checker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import pytest

from gateway.session.checkpoint import Anchor
from gateway.session.contradictions import Contradictions
from gateway.session.dedup_window import DedupWindow
from gateway.session.doubtful_pushes import Doubt, Doubtful, DoubtfulPushes
from gateway.session.finality import Finality
from gateway.session.history_cursor import CursorPhase, HistoryCursor
from gateway.session.history_reader import HistoryReader
from gateway.session.outbox import Outbox
from gateway.session.overlap import Overlap
from gateway.session.push_merge import PushMerger
from gateway.session.reorder_buffer import ReorderBuffer
from gateway.session.session import Session
from gateway.session.subscriptions import Subscription, Subscriptions
from gateway.session.types import Batch, Content, Outcome, OutgoingItem
from tests.simulation.driver import Life
from tests.simulation.verdict import violations

ENOUGH = 2000
"""Seeds within which a fault must show."""


class _LiveAtTheLastPage(Overlap):
    """Is live when a page is the last."""

    is_proven = True  # type: ignore[assignment]

    def is_reached(self, reached: int, *, paused: bool) -> bool:  # noqa: ARG002
        return paused


class _Trusting(HistoryCursor):
    def begin(self, marked: int, anchor: Anchor | None) -> None:
        super().begin(marked, anchor)
        self.phase = CursorPhase.FORWARD


class WithoutAnchor(Session):
    """Takes any history for the one that it knows."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **named)
        self._cursor.__class__ = _Trusting
        self._cursor.begin(self._outbox.marked, self._outbox.anchor)


class _Forgetful(Outbox):
    """Publishes what it is shown, however often."""

    def __contains__(self, sequence: int) -> bool:
        return False


class _Nameless(DedupWindow):
    """Knows events by their sequence only."""

    def has_seen(self, identity: str) -> bool:  # noqa: ARG002
        return False


class _Unclaimed(DedupWindow):
    """Takes an event for another when it shows its sequence later."""

    def claim(self, identity: str) -> bool:  # noqa: ARG002
        return False


class WithoutLateMarks(Session):
    """Publishes late events as if they were in order."""

    def take(self, messages: int, size: int) -> Batch | None:
        batch = super().take(messages, size)
        return (
            None if batch is None else replace(batch, items=tuple(OutgoingItem(item.content) for item in batch.items))
        )


class _Hasty(Finality):
    """Takes every page of the history to be complete."""

    def last_final(self, contents: Sequence[Content], *_: Any) -> Content | None:  # noqa: ANN401
        return next((content for content in reversed(contents) if content.sequence is not None), None)


class _Gullible(ReorderBuffer):
    """Keeps what came over a connection whose history was never proven."""

    def discard_since(self, trial: int) -> int:  # noqa: ARG002
        return 0


class _ByEventTime(Finality):
    """Takes an event that says to be old for final, with the holes before it."""

    def last_final(self, contents: Sequence[Content], *_: Any) -> Content | None:  # noqa: ANN401
        final = None
        for content in contents:
            if content.sequence is not None:
                if content.sequence > self.through and not self.is_old(content):
                    break
                final = content
        return final


class WithTheHubsClockAlone(Session):
    """Believes whatever the hub's clock shows."""

    def on_latest(self, sequence: int, time: str, ours: float | None = None) -> None:  # noqa: ARG002
        super().on_latest(sequence, time)


class _Holeless(Outbox):
    """Forgets what was passed without having been seen."""

    def is_open(self, sequence: int) -> bool:
        return sequence > self.verified and super().is_open(sequence)


class _Untold(Contradictions):
    """Says nothing of what came too late."""

    __slots__ = ()

    def place_too_late(self, content: Content, verified: int) -> Outcome:  # noqa: ARG002
        return Outcome.BEFORE_START


class _Careless(Outbox):
    """Knows an event by its number alone."""

    def meet(self, content: Content) -> Outcome:  # noqa: ARG002
        return Outcome.DUPLICATE


class _Eager(DoubtfulPushes):
    """Takes a push that cannot be decoded for all that there is."""

    def hold(self, held: Doubtful) -> bool:
        held.is_overdue = held.doubt is Doubt.GARBLED
        return super().hold(held)


class _Credulous(DoubtfulPushes):
    """Believes every number."""

    def is_far(self, sequence: int, high: int) -> bool:  # noqa: ARG002
        return False


class _WithoutAudit(HistoryReader):
    """Never looks at the history again."""

    __slots__ = ()

    def audit(self) -> None:
        pass


class _WithoutTarget(PushMerger):
    """Forgets what it let go of for want of room."""

    __slots__ = ()

    def _retreat(self, sequence: int) -> None:
        self.dropped += len(self._waiting) + (sequence > 0)
        self._waiting.clear()


class WithoutGaps(Session):
    """Says nothing of what the hub no longer has."""

    def take(self, messages: int, size: int) -> Batch | None:
        batch = super().take(messages, size)
        if batch is None:
            return None
        kept = tuple(item for item in batch.items if getattr(item.content, "type", None) != "gap")
        return replace(batch, items=kept)


class _Backdating(Outbox):
    """Lets a change of the subscription hold for what came before it."""

    def subscribe(self, subscription: Subscription) -> None:
        super().subscribe(Subscription(self.verified + 1, subscription.strategies))


class _Unfiltered(Subscriptions):
    """Publishes every strategy."""

    def wants(self, content: Content) -> bool:  # noqa: ARG002
        return True


def _session(kind: type[Session]) -> Callable[[int], Life]:
    return lambda seed: Life(seed, make_session=kind)


def _part(name: str, faulty: type) -> Callable[[int], Life]:
    """Return lives of sessions whose part of this name is a faulty one."""
    return _parts({name: faulty})


def _parts(faulty: Mapping[str, type]) -> Callable[[int], Life]:
    """Return lives of sessions whose parts of these names are faulty ones."""

    def made(*arguments: Any, **named: Any) -> Session:  # noqa: ANN401
        session = Session(*arguments, **named)
        for name, kind in faulty.items():
            attrgetter(name)(session).__class__ = kind
        return session

    return lambda seed: Life(seed, make_session=made)


FAULTS: dict[str, Callable[[int], Life]] = {
    "overlap removed: live when a page is the last": _part("_overlap", _LiveAtTheLastPage),
    "anchor not checked": _session(WithoutAnchor),
    "checkpoint not atomic with the events": lambda seed: Life(seed, is_atomic=False),
    "a failed page taken for the end": lambda seed: Life(seed, takes_failures_for_ends=True),
    "sequences not deduplicated": _part("_outbox", _Forgetful),
    "identities not remembered": _part("_outbox.dedup_window", _Nameless),
    "an identity not joined with its sequence": _part("_outbox.dedup_window", _Unclaimed),
    "late events not marked": _session(WithoutLateMarks),
    "history taken to be complete at once": _part("_merger._finality", _Hasty),
    "no audit": _part("history", _WithoutAudit),
    "no way back to what was let go": _part("_pushes", _WithoutTarget),
    "gaps not announced": _session(WithoutGaps),
    "a subscription that holds too early": _part("_outbox", _Backdating),
    "no filter": _part("_outbox.subscriptions", _Unfiltered),
    "final by the time of the event": _part("_merger._finality", _ByEventTime),
    "the hub's clock believed": _session(WithTheHubsClockAlone),
    "passed holes forgotten": _parts({"_outbox": _Holeless, "_outbox.contradictions": _Untold}),
    "two events of one number taken for one": _part("_outbox", _Careless),
    "a push that cannot be decoded believed": _part("_doubtful", _Eager),
    "a number far too high believed": _part("_doubtful", _Credulous),
    "trusted before it is proven": _part("_waiting", _Gullible),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_simulation_notices(fault: str) -> None:
    for seed in range(ENOUGH):
        life = FAULTS[fault](seed)
        try:
            life.live()
        except AssertionError:
            return
        if violations(life):
            return
    raise AssertionError(f"{ENOUGH} seeds did not notice: {fault}")
