"""What of a history is final: what the hub told a grace ago decides, and not when an event happened."""

from __future__ import annotations

import pytest

from gateway.events.event import DeadLetter
from gateway.session.session import Session
from gateway.session.types import Outcome, Page
from tests.unit.session.scenes import Scene, clock, event, events, live

LATEST = 6


def passed(*, grace: float = 30.0) -> Scene:
    """Return a live scene that has passed the hole at 5."""
    scene = live(*events([1, 2, 3, 4]), latest=4, grace=grace)
    scene.session.on_latest(6, clock(0))
    scene.audits(*events([4, 6]), latest=6, at=2 * grace)
    scene.audits(*events([4, 6]), latest=6, at=4 * grace)
    scene.commits()
    assert scene.checkpoint.verified == LATEST
    return scene


def test_an_event_of_long_ago_that_is_stored_late_is_published_late() -> None:
    """They happened at 12:00 and are stored at 12:02; 5 is committed 2 s after 6."""
    session = Session("acme", None)
    session.on_connected()
    session.on_subscribed()
    session.on_latest(6, "2026-01-01T12:02:00Z")
    request = session.history.wants()
    assert request is not None

    session.history.on_page(Page(request, events([1, 2, 3, 4, 6]), None), 0.0)
    assert session.on_push(event(5), 2.0) is Outcome.LATE
    batch = session.take(100, 10**6)
    while batch is not None and not batch.items:
        batch = session.take(100, 10**6)

    assert batch is not None
    assert [(item.content.sequence, item.late) for item in batch.items] == [  # type: ignore[union-attr]
        (1, False), (2, False), (3, False), (4, False), (6, False), (5, True),
    ]  # fmt: skip


def test_history_alone_shows_it_and_it_is_published_late() -> None:
    scene = live(*events([1, 2, 3, 4, 6]), latest=6, grace=30)

    scene.audits(*events([4, 5, 6]), latest=6, at=20)

    assert scene.published() == [1, 2, 3, 4, 6, 5]
    assert scene.late() == [5]


def test_a_hole_that_was_passed_is_remembered_and_published_late_once() -> None:
    scene = passed()

    assert scene.pushes(event(5), event(5)) == [Outcome.LATE, Outcome.DUPLICATE]

    assert scene.published() == [1, 2, 3, 4, 6, 5]
    assert scene.late() == [5]


def test_it_is_remembered_over_a_restart() -> None:
    scene = passed().crashes()
    scene.connect(latest=6, at=200)
    scene.answers(event(6))

    assert scene.pushes(event(5)) == [Outcome.LATE]
    scene.commits()
    again = scene.crashes()
    again.connect(latest=6, at=300)
    again.answers(event(6))

    assert again.pushes(event(5)) == [Outcome.DUPLICATE]


def test_what_no_longer_fits_the_record_is_a_dead_letter_that_says_so() -> None:
    scene = Scene(grace=30)
    sequences = [1 + 1_000_003 * number for number in range(2000)]
    scene.connect(latest=sequences[-1])
    scene.session.on_latest(sequences[-1], clock(31))
    for first in range(0, len(sequences), 100):
        scene.answers(*events(sequences[max(0, first - 1) : first + 100]), token=str(first))
        scene.commits()
    old = event(5)

    outcomes = scene.pushes(old, old)

    assert outcomes == [Outcome.TOO_LATE, Outcome.DUPLICATE]
    (item,) = scene.commits()
    letter = item.content
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.sequence, letter.id, letter.raw) == ("too-late", 5, "id-5", old.body)
    assert "event 5 (id-5) came into view after everything up to" in letter.detail
    assert scene.session.take_contradictions() == [(Outcome.TOO_LATE, old)]
    assert len(scene.batches[-1].checkpoint) < 16 * 1024


@pytest.mark.parametrize("wrong", [-3600, 3600, 86_400])
def test_a_hub_clock_that_jumps_makes_nothing_final(wrong: float) -> None:
    scene = live(*events([1, 2, 3, 4]), latest=4)
    ours = 10.0**9
    scene.session.on_latest(6, clock(0), ours)
    scene.session.on_latest(6, clock(wrong), ours + 5)

    scene.audits(*events([4, 6]), latest=6, at=wrong + 1)

    assert scene.session.verified == 4
    scene.pushes(event(5), event(6))
    assert sorted(scene.published(), key=str) == [1, 2, 3, 4, 5, 6]


def test_a_hub_clock_that_stands_still_does_not_hold_up_verified_for_ever() -> None:
    scene = live(*events([1, 2, 3, 4]), latest=4, grace=30)
    for look in range(12):
        scene.session.on_latest(6, clock(0), 10.0**9 + 30 * look)
        scene.session.history.audit()
        scene.answers(*events([4, 6]))
        while scene.asks() is not None:
            scene.answers()
    scene.commits()

    assert scene.checkpoint.verified == LATEST


def test_a_latest_that_was_far_too_high_once_makes_nothing_final() -> None:
    scene = live(*events([1, 2]), latest=2, grace=30)
    scene.session.on_latest(10**12, clock(1))
    scene.session.on_latest(4, clock(40))
    scene.audits(*events([2, 4]), latest=4, at=41)
    scene.commits()

    assert scene.checkpoint.verified == 2
    assert scene.pushes(event(3)) == [Outcome.LATE]


def test_on_a_long_way_the_hub_is_asked_again() -> None:
    scene = Scene(grace=30)
    scene.connect(latest=100)
    scene.answers(event(1), token="a")
    scene.now += 31
    scene.answers(event(2), token="b")

    assert scene.session.wants_latest
    assert scene.asks() is None
    scene.session.on_latest(100, clock(31))
    assert scene.asks() is not None
