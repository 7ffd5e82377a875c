"""What a broker lost is taken out of a checkpoint: history gives it again, and nothing else is published again."""

from __future__ import annotations

from typing import Any, Final

import hypothesis.strategies as st
from hypothesis import given

from gateway.session.checkpoint import Anchor, Checkpoint, Passed, decode_checkpoint, encode_checkpoint
from gateway.session.subscriptions import Subscription
from gateway.session.taking_back import without
from tests.unit.session.scenes import Scene, event, events

_PAGE: Final = 50


def lived_through(checkpoint: Checkpoint, *history: int, **more: Any) -> Scene:  # noqa: ANN401 - an event's
    """Return a scene that goes on from a checkpoint, pages a history to its end, and commits each page."""
    scene = Scene(decode_checkpoint(encode_checkpoint(checkpoint)))
    scene.connect(latest=max(history))
    for _ in range(2 * len(history)):
        if (request := scene.asks()) is None:
            break
        page = [one for one in history if one > request.since][:_PAGE]
        scene.answers(*events(page, **more), is_full=len(page) == _PAGE)
        scene.commits()
    return scene


def test_the_end_is_lost() -> None:
    standing = Checkpoint(verified=10, anchor=Anchor(10, "id-10"), passed=Passed(0, 0))
    taken, known = without(standing, {8, 9, 10})
    assert known == [8, 9, 10]
    assert (taken.verified, taken.settled, taken.passed) == (7, (), Passed(0, 0))
    scene = lived_through(taken, *range(1, 13))
    assert scene.published() == [8, 9, 10, 11, 12]
    assert scene.late() == []


def test_some_of_the_end_is_lost_and_is_late_behind_what_is_there() -> None:
    standing = Checkpoint(verified=6, anchor=Anchor(6, "id-6"), settled=((8, 10),), passed=Passed(0, 2, ((4, 4),)))
    taken, known = without(standing, {3, 4, 5, 9, 11})
    assert known == [3, 5, 9], "4 and 11 were never published"
    assert (taken.verified, taken.settled) == (2, ((6, 6), (8, 8), (10, 10)))
    assert taken.passed == Passed(0, 2)
    scene = lived_through(taken, *range(1, 13))
    assert scene.published() == [3, 4, 5, 7, 9, 11, 12]
    assert scene.late() == [3, 4, 5, 7, 9]


def test_what_is_before_the_account_began_stays_unpublished() -> None:
    standing = Checkpoint(verified=9, anchor=Anchor(9, "id-9"), passed=Passed(5, 7))
    assert without(standing, {4, 5}) == (standing, [])
    taken, known = without(standing, {4, 6, 8})
    assert known == [6, 8]
    assert lived_through(taken, *range(1, 10)).published() == [6, 8]


def test_what_was_wanted_once_is_wanted_again_whatever_is_wanted_now() -> None:
    subscriptions = (Subscription(9, frozenset({2})),)
    standing = Checkpoint(verified=10, anchor=Anchor(10, "id-10"), subscriptions=subscriptions, passed=Passed(0, 0))
    taken, _ = without(standing, {7})
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


NUMBERS = st.frozensets(st.integers(1, 30))


@given(published=NUMBERS, lost=NUMBERS, verified=st.integers(0, 30))
def test_history_gives_again_exactly_what_was_published_and_is_lost(
    published: frozenset[int], lost: frozenset[int], verified: int
) -> None:
    """What nobody has is between: numbers that the hub never used, up to `verified` and above."""
    holes = [number for number in range(1, verified + 1) if number not in published]
    above = [number for number in sorted(published) if number > verified]
    last = max((one for one in published if one <= verified), default=None)
    standing = Checkpoint(
        verified=verified,
        anchor=None if last is None else Anchor.of(event(last)),
        settled=joined(above),
        passed=Passed(0, 0, joined(holes)),
    )
    taken, known = without(standing, lost)
    assert known == sorted(lost & published)
    assert decode_checkpoint(encode_checkpoint(taken)) == taken
    if taken != standing:
        assert lived_through(taken, *sorted(published)).published() == known


def joined(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return tuple(found)
