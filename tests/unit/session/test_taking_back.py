"""What a broker lost is taken out of a checkpoint: history gives it again, and nothing else is published again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import hypothesis.strategies as st
from hypothesis import given

from gateway.session.checkpoint import Anchor, Checkpoint, Passed, decode_checkpoint, encode_checkpoint
from gateway.session.interval_set import IntervalSet
from gateway.session.subscriptions import Subscription
from gateway.session.taking_back import LOST_BYTES, without
from tests.unit.session.scenes import Scene, clock, event, events

_PAGE: Final = 50


def lived_through(checkpoint: Checkpoint, *history: int, **more: Any) -> Scene:  # noqa: ANN401 - an event's
    """Return a scene that goes on from a checkpoint, pages a history to its end, and commits each page."""
    scene = Scene(decode_checkpoint(encode_checkpoint(checkpoint)))
    scene.connect(latest=max(history))
    pages(scene, *history, **more)
    return scene


def looks_again(scene: Scene, *history: int, at: float = 31.0) -> None:
    """Let a scene that is live audit, when the grace is over."""
    scene.session.on_latest(max(history), clock(at))
    scene.session.history.audit()
    pages(scene, *history)


def pages(scene: Scene, *history: int, **more: Any) -> None:  # noqa: ANN401
    for _ in range(2 * len(history) + 2):
        if (request := scene.asks()) is None:
            break
        page = [one for one in history if one > request.since][:_PAGE]
        scene.answers(*events(page, **more), is_full=len(page) == _PAGE)
        scene.commits()


def test_the_end_is_lost() -> None:
    checkpoint = Checkpoint(verified=10, anchor=Anchor(10, "id-10"), passed=Passed(0, 0))
    taken, known = without(checkpoint, {8, 9, 10})
    assert known == [8, 9, 10]
    assert (taken.verified, taken.settled, taken.passed) == (7, (), Passed(0, 0))
    scene = lived_through(taken, *range(1, 13))
    assert scene.published() == [8, 9, 10, 11, 12]
    assert scene.late() == []


def test_some_of_the_end_is_lost_and_is_late_behind_what_is_there() -> None:
    checkpoint = Checkpoint(verified=6, anchor=Anchor(6, "id-6"), settled=((8, 10),), passed=Passed(0, 2, ((4, 4),)))
    taken, known = without(checkpoint, {3, 4, 5, 9, 11})
    assert known == [3, 5, 9], "4 and 11 were never published"
    assert (taken.verified, taken.settled) == (2, ((6, 6), (8, 8), (10, 10)))
    assert taken.passed == Passed(0, 2)
    scene = lived_through(taken, *range(1, 13))
    assert scene.published() == [3, 4, 5, 7, 9, 11, 12]
    assert scene.late() == [3, 4, 5, 7, 9]


def test_what_is_before_the_account_began_stays_unpublished() -> None:
    checkpoint = Checkpoint(verified=9, anchor=Anchor(9, "id-9"), passed=Passed(5, 7))
    assert without(checkpoint, {4, 5}) == (checkpoint, [])
    taken, known = without(checkpoint, {4, 6, 8})
    assert known == [6, 8]
    assert lived_through(taken, *range(1, 10)).published() == [6, 8]


def test_what_was_wanted_once_is_wanted_again_whatever_is_wanted_now() -> None:
    subscriptions = (Subscription(9, frozenset({2})),)
    checkpoint = Checkpoint(verified=10, anchor=Anchor(10, "id-10"), subscriptions=subscriptions, passed=Passed(0, 0))
    taken, _ = without(checkpoint, {7})
    assert taken.subscriptions == (Subscription(0), *subscriptions)
    assert lived_through(taken, *range(1, 13), strategy=1).published() == [7]


def test_many_published_again_do_not_let_others_pass_for_strangers() -> None:
    """Of the last 512 published the identities are remembered, and those are pushed out now."""
    before = Scene()
    before.connect(latest=1000)
    before.answers(*events(range(1, 1001)))
    before.commits()
    there = set(range(5, 1001, 5))
    taken, known = without(before.checkpoint, set(range(1, 1001)) - there)
    assert len(known) == 800
    scene = lived_through(taken, *range(1, 1001))
    assert scene.published() == known
    assert scene.session.take_contradictions() == []
    assert scene.checkpoint.again == 0


def test_what_the_hub_has_no_more_is_announced_once_and_nothing_besides() -> None:
    """Its history begins behind the first that are lost, and still has the anchor. 8 never was."""
    checkpoint = Checkpoint(
        verified=10, anchor=Anchor(10, "id-10"), settled=((12, 13),), passed=Passed(0, 2, ((8, 8),))
    )
    taken, known = without(checkpoint, {4, 5, 7, 9, 12})
    assert known == [4, 5, 7, 9, 12]
    scene = lived_through(taken, 9, 10, 13, 14)
    assert scene.published() == [9, 14]
    assert scene.notifications("gap") == [], "its grace is not over"
    looks_again(scene, 9, 10, 13, 14, 15)
    scene.published()
    named = [{"FirstSeqId": 4, "LastSeqId": 5}, {"FirstSeqId": 7, "LastSeqId": 7}, {"FirstSeqId": 12, "LastSeqId": 12}]
    assert scene.notifications("gap") == named
    assert (scene.checkpoint.verified, scene.checkpoint.lost) == (15, ())
    again = scene.crashes()
    again.connect(latest=16, at=90.0)
    again.answers(*events([15, 16]))
    assert (again.notifications("gap"), again.published()) == ([], [16])


def test_what_is_announced_is_so_with_the_commit_that_passes_it() -> None:
    taken, _ = without(Checkpoint(verified=10, anchor=Anchor(10, "id-10"), passed=Passed(0, 0)), {3, 6})
    scene = lived_through(taken, 4, 5, 7, 8, 9, 10)
    scene.session.on_latest(10, clock(31.0))
    scene.session.history.audit()
    for since in (9, 2):  # whose history it is, and what it has
        scene.answers(*events([one for one in (4, 5, 7, 8, 9, 10) if one > since]))
    scene.commits(messages=1)
    (first, *_) = [batch for batch in scene.batches if batch.items]
    checkpoint = decode_checkpoint(first.checkpoint)
    assert (checkpoint.verified, checkpoint.lost) == (3, ((6, 6),))
    again = lived_through(checkpoint, 4, 5, 7, 8, 9, 10)
    looks_again(again, 4, 5, 7, 8, 9, 10)
    assert again.notifications("gap") == [{"FirstSeqId": 6, "LastSeqId": 6}]


def test_where_the_history_begins_behind_the_anchor_each_is_announced_once() -> None:
    taken, _ = without(Checkpoint(verified=10, anchor=Anchor(10, "id-10"), passed=Passed(0, 0)), {3, 6})
    scene = lived_through(taken, *range(13, 16))
    looks_again(scene, *range(13, 16))
    assert scene.notifications("gap") == [
        {"FirstSeqId": 3, "LastSeqId": 3},
        {"FirstSeqId": 6, "LastSeqId": 6},
        {"FirstSeqId": 11, "LastSeqId": 12},
    ]
    assert scene.checkpoint.lost == ()


def test_a_second_loss_forgets_nothing_of_the_first() -> None:
    once, _ = without(Checkpoint(verified=10, anchor=Anchor(10, "id-10"), passed=Passed(0, 0)), {3, 6})
    twice, _ = without(once, {5, 6, 9})
    assert twice.lost == ((3, 3), (5, 6), (9, 9))


def test_what_is_known_of_a_scattered_loss_takes_little() -> None:
    """Some that never were are announced then, too."""
    checkpoint = Checkpoint(verified=10**15 + 10**5, passed=Passed(0, 0))
    lost = set(range(10**15, 10**15 + 10**4, 2))
    taken, _ = without(checkpoint, lost)
    assert len(encode_checkpoint(taken)) - len(encode_checkpoint(replace(taken, lost=()))) < LOST_BYTES
    kept = IntervalSet(taken.lost)
    assert all(number in kept for number in lost)


NUMBERS = st.frozensets(st.integers(1, 30))


@given(published=NUMBERS, lost=NUMBERS, verified=st.integers(0, 30))
def test_history_gives_again_exactly_what_was_published_and_is_lost(
    published: frozenset[int], lost: frozenset[int], verified: int
) -> None:
    """What nobody has is between: numbers that the hub never used, up to `verified` and above."""
    holes = [number for number in range(1, verified + 1) if number not in published]
    above = [number for number in sorted(published) if number > verified]
    last = max((one for one in published if one <= verified), default=None)
    checkpoint = Checkpoint(
        verified=verified,
        anchor=None if last is None else Anchor.of(event(last)),
        settled=joined(above),
        passed=Passed(0, 0, joined(holes)),
    )
    taken, known = without(checkpoint, lost)
    assert known == sorted(lost & published)
    assert decode_checkpoint(encode_checkpoint(taken)) == taken
    if taken != checkpoint:
        assert lived_through(taken, *sorted(published)).published() == known


@given(published=NUMBERS, lost=NUMBERS, verified=st.integers(0, 30), left=NUMBERS)
def test_what_is_lost_is_given_again_or_announced(
    published: frozenset[int], lost: frozenset[int], verified: int, left: frozenset[int]
) -> None:
    """And no number that was neither lost nor passed by a history which begins later."""
    above = [number for number in sorted(published) if number > verified]
    holes = [number for number in range(1, verified + 1) if number not in published]
    anchor = max((one for one in published if one <= verified), default=None)
    checkpoint = Checkpoint(
        verified=verified,
        anchor=None if anchor is None else Anchor.of(event(anchor)),
        settled=joined(above),
        passed=Passed(0, 0, joined(holes)),
    )
    taken, known = without(checkpoint, lost)
    if not known:
        return
    history = sorted((published & left) | ({anchor} if anchor else set()) | {31})
    scene = lived_through(taken, *history)
    looks_again(scene, *history)
    gaps = scene.notifications("gap")
    named = {number for gap in gaps for number in range(int(gap["FirstSeqId"] or 0), int(gap["LastSeqId"] or 0) + 1)}
    assert named == set(known) - set(history)
    assert set(scene.published()) == (set(known) & set(history)) | {31}


def joined(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return tuple(found)
