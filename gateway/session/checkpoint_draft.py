"""The contents of the next checkpoint: all that batches took, and nothing that still waits in the queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.session.checkpoint import Anchor, Checkpoint, Passed
from gateway.session.dedup_window import DedupWindow
from gateway.session.finality import Sightings
from gateway.session.interval_set import IntervalSet
from gateway.session.subscriptions import Subscription, Subscriptions

HOLE_BYTES: Final = 4 * 1024
"""Bytes that the holes which `verified` passed may take in a checkpoint; the lowest are forgotten first."""


class CheckpointDraft:
    """The checkpoint of one account as it is once everything taken so far is committed. Only taking changes it."""

    __slots__ = (
        "_again",
        "_anchor",
        "_floor",
        "_holes",
        "_lost",
        "_settled",
        "_sightings",
        "_subscriptions",
        "_window",
        "began",
        "incarnation",
        "judged_after",
        "stragglers",
        "subject",
        "verified",
    )

    def __init__(self, checkpoint: Checkpoint, window: DedupWindow, sightings: Callable[[], Sightings]) -> None:
        """Go on from `checkpoint`; `window` and `sightings` have what the next one keeps of theirs."""
        self._window = window
        self._sightings = sightings
        self.verified = checkpoint.verified
        """Everything up to it is settled and final."""
        self.incarnation = checkpoint.incarnation
        self.subject = checkpoint.subject
        """Of the key that the events came with."""
        self._anchor = checkpoint.anchor
        self._settled = IntervalSet(checkpoint.settled)
        self._subscriptions = Subscriptions(checkpoint.subscriptions)
        passed = checkpoint.passed or Passed(checkpoint.verified, checkpoint.verified)
        self.began = passed.began
        """The account began after this sequence."""
        self._floor, self._holes = passed.floor, IntervalSet(passed.holes)
        self._again = checkpoint.again
        self._lost = IntervalSet(checkpoint.lost)
        self.stragglers: set[int] = set()
        """Sequences of holes that are queued now."""
        self.judged_after = 0
        """No event up to it can be published any more, so that no subscription need be known for it."""

    @property
    def highest(self) -> int:
        """The highest sequence that is settled."""
        return max(self.verified, self._settled.highest or 0)

    @property
    def unknown_through(self) -> int:
        """The sequence up to which the dedup window need not have the event of a number."""
        return max(self._floor, self.began, self._again)

    def settled(self) -> IntervalSet:
        """Return a copy of what is settled above `verified`."""
        return self._settled.copy()

    def is_open_hole(self, sequence: int) -> bool:
        """Return whether `verified` passed `sequence` without anything of that number, which is not queued either."""
        return sequence in self._holes and sequence not in self.stragglers

    def is_remembered(self, sequence: int) -> bool:
        """Return whether it is known of `sequence`, up to `verified`, whether it is settled."""
        return sequence > self._floor

    def begin(self, verified: int) -> None:
        """Let the account begin after `verified`."""
        self.verified = self.began = self._floor = verified

    def subscribe(self, subscription: Subscription) -> None:
        """Let `subscription` hold from its sequence on."""
        self._subscriptions.change(subscription)
        self._forget()

    def subscribe_from_the_beginning(self, subscription: Subscription) -> None:
        """Let `subscription` hold for an account that has not begun."""
        self._subscriptions.change(subscription)

    def settle(self, sequence: int) -> None:
        """Note that `sequence` is settled."""
        if sequence > self.verified:
            self._settled.add(sequence)
        elif sequence in self.stragglers:
            self.stragglers.discard(sequence)
            self._holes.discard(sequence)

    def verify(self, verified: int, anchor: Anchor | None) -> None:
        """Let everything up to `verified` be settled and final: what is missing there is a hole."""
        for low, high in self._settled.missing(self.verified + 1, verified):
            self._holes.append(low, high)
        self.verified, self._anchor = verified, anchor
        for intervals in (self._settled, self._lost):
            intervals.drop_through(verified)
        self._forget()

    def _forget(self) -> None:
        """Forget the lowest holes where they, or the subscriptions that they fall under, take too much room."""
        while self._holes.size > HOLE_BYTES:
            self._forget_holes(next(iter(self._holes))[1])
        self._forget_holes(self._subscriptions.first_needed(self.verified) - 1)
        self.judged_after = next(iter(self._holes))[0] - 1 if self._holes else self.verified
        self._subscriptions.forget_through(self.judged_after)

    def _forget_holes(self, last: int) -> None:
        if last > self._floor:
            self._floor = min(last, self.verified)
            self._holes.drop_through(self._floor)

    def checkpoint(self) -> Checkpoint:
        """Return what is settled once everything taken so far is committed."""
        is_new = self.began == self.verified and not self._holes
        return Checkpoint(
            verified=self.verified,
            anchor=self._anchor,
            settled=tuple(self._settled),
            identities=self._window.sequenced(),
            unsequenced=self._window.unsequenced(),
            incarnation=self.incarnation,
            subject=self.subject,
            subscriptions=self._subscriptions.held(),
            passed=None if is_new else Passed(self.began, self._floor, tuple(self._holes)),
            sightings=self._sightings(),
            again=self._again if self._again > self.verified else 0,
            lost=tuple(self._lost),
        )
