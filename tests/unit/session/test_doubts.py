"""Two events of one number, pushes that cannot be decoded though history has them, and numbers far too high."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import Diverged
from gateway.events.event import DeadLetter
from gateway.session.checkpoint import Anchor, Checkpoint
from gateway.session.types import Outcome, State
from tests.unit.session.scenes import OLD, Scene, clock, event, events, letter, live

FAR = 10**12


def letters(scene: Scene) -> list[tuple[str, int | None, str | None]]:
    """Return the dead letters in the log: reason, sequence and EventId."""
    scene.commits()
    contents = [item.content for item in scene.items]
    return [(one.reason, one.sequence, one.id) for one in contents if isinstance(one, DeadLetter)]


# One number, two events ------------------------------------------------------------------------------------


def test_the_second_of_a_page_is_a_dead_letter_with_both_ids() -> None:
    scene = Scene()
    scene.connect(latest=4)

    scene.answers(event(3, id="x"), event(4, id="a"), event(4, id="b"))

    assert letters(scene) == [("sequence-reused", 4, "b")]
    (found,) = [item.content for item in scene.items if isinstance(item.content, DeadLetter)]
    assert found.detail == "event 4 was published as a, and this is b"
    assert found.raw == event(4, id="b").body
    assert scene.session.take_contradictions() == [(Outcome.REUSED, event(4, id="b"))]


@pytest.mark.parametrize("second", [event(4, id="b"), event(4, id="a", body=b"corrected")])
def test_the_second_that_is_pushed_is_one_and_repeats_are_none(second: object) -> None:
    scene = live(*events([1, 2, 3]), latest=3)

    assert scene.pushes(event(4, id="a"), second, second, event(4, id="a")) == [  # type: ignore[arg-type]
        Outcome.QUEUED,
        Outcome.REUSED,
        Outcome.DUPLICATE,
        Outcome.DUPLICATE,
    ]
    assert len(letters(scene)) == 1
    scene.audits(event(3), event(4, id="a"), second, latest=4, at=100)  # type: ignore[arg-type]
    assert len(letters(scene)) == 1


def test_a_correction_says_that_it_is_one() -> None:
    scene = live(*events([1, 2, 3]), latest=3)
    scene.pushes(event(4, id="a"), event(4, id="a", body=b"corrected"))
    scene.commits()

    (found,) = [item.content for item in scene.items if isinstance(item.content, DeadLetter)]
    assert found.detail == "event 4 was published as a with another content, and comes again with this one"


def test_the_second_is_one_after_a_restart_as_well() -> None:
    scene = live(event(1), latest=1)
    scene.pushes(event(2, id="a", at=0))
    scene.commits()
    again = scene.crashes()
    again.connect(latest=2)

    again.answers(event(1), event(2, id="a", at=0), event(2, id="b", at=0))

    assert letters(again) == [("sequence-reused", 2, "b")]
    assert again.published() == [2], "the dead letter alone"


def test_while_history_is_paged_the_second_waits_with_the_first() -> None:
    scene = Scene(Checkpoint(verified=3, anchor=Anchor(3, "id-3", clock(-3600))))
    scene.connect(latest=4)
    assert scene.pushes(event(4, id="a"), event(4, id="b")) == [Outcome.HELD, Outcome.HELD]

    scene.answers(event(3))
    scene.answers(event(4, id="a"))

    assert letters(scene) == [("sequence-reused", 4, "b")]


def test_what_is_verified_is_known_as_well() -> None:
    scene = live(*events([1, 2, 3]), latest=3)

    assert scene.pushes(event(2, id="b")) == [Outcome.REUSED]
    assert scene.session.state is State.LIVE


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize("split", [False, True])
def test_the_anchor_is_any_entry_of_its_number(order: str, *, split: bool) -> None:
    scene = Scene(Checkpoint(verified=4, anchor=Anchor(4, "a", clock(-3600))))
    scene.connect(latest=5)
    first, second = (event(4, id=id_) for id_ in order)

    if split:
        scene.answers(first, token="t")
        scene.answers(second, event(5))
    else:
        scene.answers(first, second, event(5))
    while 5 not in scene.published():
        scene.answers(first, second, event(5))

    assert letters(scene) in ([("sequence-reused", 4, "b")], [])


def test_a_history_is_another_even_when_all_entries_of_the_anchor_differ() -> None:
    scene = Scene(Checkpoint(verified=4, anchor=Anchor(4, "a", clock(-3600))))
    scene.connect(latest=5)
    scene.answers(event(4, id="b"), token="t")

    with pytest.raises(Diverged, match="event 4 was a when it was published and is b"):
        scene.answers(event(5))


def test_another_event_of_the_anchors_number_is_as_good_if_published_too() -> None:
    scene = live(*events([1, 2]), latest=2)
    scene.pushes(event(3, id="a", at=0), event(3, id="b", at=0))
    scene.commits()
    again = scene.crashes(checkpoint=replace(scene.checkpoint, anchor=Anchor(3, "b", clock(0))))
    again.connect(latest=3, at=2)

    again.answers(event(3, id="a", at=0))  # the other one comes into view late
    again.answers(event(3, id="a", at=0))

    assert again.session.state is State.LIVE
    assert again.published() == []


# What cannot be decoded --------------------------------------------------------------------------------------


def test_an_undecodable_push_gives_way_to_the_history_that_has_it_whole() -> None:
    scene = live(*events([1, 2]), latest=2)
    scene.pushes(event(3, at=0))
    assert scene.pushes(letter(4, id="id-4"), event(5, at=0)) == [Outcome.HELD, Outcome.HELD]
    scene.waits(1)
    assert scene.published() == [1, 2, 3, 5]
    assert scene.session.history.wants_audit

    scene.audits(event(2), *events([3, 4, 5], at=0), latest=5)

    assert scene.published() == [1, 2, 3, 5, 4]
    assert scene.late() == [4]
    assert letters(scene) == []
    assert not scene.session.history.wants_audit


def test_one_audit_comes_soon_for_it_and_no_more() -> None:
    scene = live(*events([1, 2]), latest=2)
    scene.pushes(event(3, at=0), letter(5, id="id-5"))
    assert scene.session.history.wants_audit

    scene.audits(event(2), event(3, at=0), event(4, at=0), latest=4)  # a young event ends it early

    assert scene.asks() is None
    assert not scene.session.history.wants_audit


def test_while_history_is_paged_likewise() -> None:
    scene = Scene()
    scene.connect(latest=2)
    scene.pushes(letter(3, id="id-3"))

    scene.answers(*events([1, 2]))
    scene.audits(*events([2, 3]), latest=3, at=40)

    assert scene.published() == [1, 2, 3]
    assert letters(scene) == []


def test_a_whole_push_is_better_than_one_that_cannot_be_decoded() -> None:
    scene = live(*events([1, 2]), latest=2)

    scene.pushes(letter(3, id="id-3"), event(3))
    scene.waits(1)
    scene.audits(event(2), event(3), latest=3, at=100)

    assert scene.published() == [1, 2, 3]
    assert letters(scene) == []


# Numbers far too high ----------------------------------------------------------------------------------------


def test_a_number_far_too_high_moves_nothing_and_is_late_in_the_end() -> None:
    scene = live(*events([1, 2]), latest=2, grace=30)
    assert scene.pushes(event(FAR, id="far")) == [Outcome.HELD]
    assert scene.session.latest == 2
    assert scene.session.wants_latest
    for number in range(4):
        scene.pushes(event(3 + number, at=0))
        scene.audits(event(2), *events(range(3, 4 + number), at=0), latest=3 + number, at=31.0 * (number + 1))
        while scene.asks() is not None:
            scene.answers()
    scene.audits(event(5, at=0), event(6, at=0), latest=6, at=31.0 * 5)
    while scene.asks() is not None:
        scene.answers()

    assert [sequence for sequence in scene.published() if sequence != FAR] == [1, 2, 3, 4, 5, 6]
    assert scene.late() == [FAR]
    assert scene.session.highest == 6
    assert scene.session.take_contradictions() == [(Outcome.UNCONFIRMED, event(FAR, id="far"))]
    scene.pushes(event(7), event(FAR, id="far"))
    assert scene.published()[-1] == 7
    assert scene.published().count(FAR) == 1
    assert scene.late() == [FAR]


def test_a_number_that_the_hub_confirms_is_published_at_once() -> None:
    scene = live(*events([1, 2]), latest=2)
    scene.pushes(event(3))
    scene.pushes(event(FAR))
    assert scene.session.wants_latest

    scene.session.on_latest(FAR, clock(0))
    scene.waits(1)

    assert scene.published() == [1, 2, 3, FAR]
    assert scene.late() == []
    assert not scene.session.wants_latest


def test_the_hub_is_asked_a_few_times_and_then_at_the_audits() -> None:
    scene = live(*events([1, 2]), latest=2)
    scene.pushes(event(FAR))
    asked = 0
    while scene.session.wants_latest:
        scene.session.on_latest(2, clock(asked))
        asked += 1

    assert asked == 3


def test_what_preceded_the_subscription_waits_for_history_though_far_ahead() -> None:
    scene = Scene(checkpoint=Checkpoint(verified=4, anchor=Anchor(4, "id-4", clock(OLD))))
    scene.session.on_connected()
    assert scene.pushes(event(FAR, at=0)) == [Outcome.HELD]
    scene.session.on_subscribed()
    scene.session.on_latest(4, clock(0))
    scene.session.on_latest(FAR, clock(1))

    scene.answers(event(4))  # history lags: what happened just before the push is in neither
    scene.waits(1)
    assert scene.published() == []
    scene.session.on_latest(FAR, clock(2))
    scene.answers(event(4), event(FAR - 1, at=0), event(FAR, at=0))

    assert scene.published() == [FAR - 1, FAR]
    assert scene.late() == []


def test_one_that_found_no_room_is_not_overtaken_once_its_number_is_known() -> None:
    scene = live(*events([1, 2]), latest=2)
    scene.pushes(event(3, at=0))
    scene.commits()
    assert scene.session.on_push(event(FAR, at=0), scene.now, room=False) is Outcome.OVERFLOW
    assert scene.session.counts.dropped_pushes == 1
    assert scene.pushes(event(FAR + 1, at=0)) == [Outcome.HELD]

    for at in (1, 2):
        scene.session.on_latest(FAR + 1, clock(at))
    scene.waits(1)
    assert scene.published() == [1, 2, 3]
    scene.session.on_latest(FAR + 1, clock(3))
    scene.answers(event(2), *events([3, FAR, FAR + 1], at=0))

    assert scene.published() == [1, 2, 3, FAR, FAR + 1]
    assert scene.late() == []
