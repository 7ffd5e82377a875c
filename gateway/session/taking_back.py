"""A checkpoint without events that it has as published: a broker may lose those, and keep the checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import zip_longest
from typing import Final

from gateway.session.checkpoint import Checkpoint, Passed
from gateway.session.interval_set import IntervalSet
from gateway.session.subscriptions import Subscription

LOST_BYTES: Final = 512
"""What the record of what is lost may take in a checkpoint: a hundred intervals where numbers are dense."""


def without(checkpoint: Checkpoint, lost: Collection[int]) -> tuple[Checkpoint, list[int]]:
    """Return a checkpoint by which `lost` are not settled, and nothing else changes, and those that were so before.

    History is paged from before the first of them. The other events that it returns there are settled, so they are not
    published again. What it does not return any more is announced as a gap: so the checkpoint has which they are.
    """
    passed = checkpoint.passed or Passed(checkpoint.verified, checkpoint.verified)
    holes, settled = IntervalSet(passed.holes), IntervalSet(checkpoint.settled)
    known = [
        number
        for number in sorted(lost)
        if number in settled or (passed.began < number <= checkpoint.verified and number not in holes)
    ]
    if not known:
        return checkpoint, []
    verified = min(checkpoint.verified, known[0] - 1)
    lacking = IntervalSet(checkpoint.lost)
    above = IntervalSet(holes.missing(verified + 1, checkpoint.verified))
    for low, high in settled:
        above.append(low, high)
    for number in known:
        above.discard(number)
        lacking.add(number)
    left = tuple((low, min(high, verified)) for low, high in holes if low <= verified)
    held = checkpoint.subscriptions
    if held[0].since > verified + 1:  # what held before is forgotten; it wanted these, or they were not published
        held = (Subscription(0), *held)
    return replace(
        checkpoint,
        verified=verified,
        settled=tuple(above),
        subscriptions=held,
        passed=Passed(passed.began, min(passed.floor, verified), left),
        again=max(checkpoint.again, checkpoint.verified, settled.highest or 0),
        lost=tuple(_coarse(lacking)),
    ), known


def _coarse(intervals: IntervalSet) -> IntervalSet:
    """Join neighbours until all take little: then what never was is announced beside what is lost."""
    while intervals.size > LOST_BYTES:
        pairs = list(intervals)
        intervals = IntervalSet(
            (low, high if following is None else following[1])
            for (low, high), following in zip_longest(pairs[::2], pairs[1::2])
        )
    return intervals
