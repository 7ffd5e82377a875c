"""What the hub cannot give, and the operator consents to pass: announced, once it is final that others follow."""

from __future__ import annotations

import pytest

from gateway.errors import Diverged
from gateway.session.checkpoint import Anchor, Checkpoint
from gateway.session.types import PageRequest
from tests.unit.session.scenes import Scene, clock, event, events


def stuck(*sequences: int, latest: int = 10, checkpoint: Checkpoint | None = None) -> Scene:
    """Return a scene whose history goes on after these, where the hub gives nothing."""
    scene = Scene(checkpoint)
    scene.connect(latest=latest)
    scene.answers(*events(sequences), token="t")
    scene.session.history.on_token_refused()
    assert scene.asks() == PageRequest(sequences[-1])
    return scene


def audits_behind(scene: Scene, before: tuple[int, ...], through: int, *after: int) -> None:
    """Audit when all is old; what follows `before` cannot be given up to `through`."""
    since = before[-1]
    scene.session.on_latest(after[-1], clock(40))
    scene.session.history.audit()
    scene.answers(*events(before), token="t")
    scene.session.history.on_token_refused()
    scene.session.history.pass_over(since, through)
    scene.answers(*events(after))


def test_history_goes_on_behind_it_and_it_is_told_when_nothing_may_come() -> None:
    scene = stuck(1, 2, 3, 4)
    assert scene.session.history.may_pass == 10
    scene.session.history.pass_over(4, 5)
    assert scene.asks() == PageRequest(5)
    scene.answers(*events(range(6, 11)))
    assert scene.published() == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert scene.notifications("gap") == []
    assert scene.session.verified == 4

    audits_behind(scene, (4,), 5, *range(6, 11))

    assert scene.notifications("gap") == [{"FirstSeqId": 5, "LastSeqId": 5}]
    assert scene.session.verified == 10
    assert scene.published() == [1, 2, 3, 4, 6, 7, 8, 9, 10]


def test_what_was_pushed_of_it_is_published_and_no_gap() -> None:
    scene = stuck(1, 2, 3, 4)
    scene.pushes(event(6, at=0))
    scene.session.history.pass_over(4, 7)
    scene.answers(*events([8, 9, 10]))
    audits_behind(scene, (4,), 7, 8, 9, 10)
    assert scene.notifications("gap") == [{"FirstSeqId": 5, "LastSeqId": 5}, {"FirstSeqId": 7, "LastSeqId": 7}]
    assert scene.published() == [1, 2, 3, 4, 6, 8, 9, 10]


def test_holes_before_and_behind_it_are_not_announced() -> None:
    scene = stuck(1, 3, 5)
    scene.session.history.pass_over(5, 6)
    scene.answers(*events([8, 10]))
    audits_behind(scene, (1, 3, 5), 6, 8, 10)
    assert scene.notifications("gap") == [{"FirstSeqId": 6, "LastSeqId": 6}]
    assert scene.session.verified == 10


def test_two_of_them_are_one_gap_without_what_lies_between() -> None:
    scene = stuck(1, 2)
    scene.session.history.pass_over(2, 3)
    scene.answers(*events([4, 5]), token="t")
    scene.session.history.on_token_refused()
    scene.session.history.pass_over(5, 6)
    scene.answers(*events([7, 8, 9, 10]))
    scene.session.on_latest(10, clock(40))
    scene.session.history.audit()
    scene.answers(event(2), token="t")
    scene.session.history.on_token_refused()
    scene.session.history.pass_over(2, 3)
    scene.answers(*events([4, 5]), token="t")
    scene.session.history.on_token_refused()
    scene.session.history.pass_over(5, 6)
    scene.answers(*events([7, 8, 9, 10]))
    assert scene.notifications("gap") == [{"FirstSeqId": 3, "LastSeqId": 3}, {"FirstSeqId": 6, "LastSeqId": 6}]
    assert scene.published() == [1, 2, 4, 5, 7, 8, 9, 10]


def test_a_crash_before_it_is_final_announces_it_once() -> None:
    scene = stuck(1, 2, 3, 4)
    scene.session.history.pass_over(4, 5)
    scene.answers(*events(range(6, 11)))
    scene.commits()
    again = scene.crashes()
    again.connect(latest=10, at=40)
    again.answers(event(4), token="t")
    again.session.history.on_token_refused()
    again.session.history.pass_over(4, 5)
    again.answers(*events(range(6, 11)))
    assert again.notifications("gap") == [{"FirstSeqId": 5, "LastSeqId": 5}]
    assert again.published() == []
    assert again.checkpoint.verified == 10


def test_what_was_passed_and_is_pushed_after_all_is_published_late() -> None:
    scene = stuck(1, 2, 3, 4)
    scene.session.history.pass_over(4, 5)
    scene.answers(*events(range(6, 11)))
    audits_behind(scene, (4,), 5, *range(6, 11))
    scene.commits()
    scene.pushes(event(5))
    assert scene.published()[-1] == 5
    assert scene.late() == [5]


def test_nothing_is_passed_before_the_history_is_proven() -> None:
    known = Checkpoint(verified=4, anchor=Anchor.of(event(4)))
    scene = Scene(known)
    scene.connect(latest=10)
    assert scene.session.history.may_pass is None
    scene.session.history.pass_over(3, 5)
    assert scene.asks() == PageRequest(3)
    with pytest.raises(Diverged):
        scene.answers(event(4, id="another"), event(6))


def test_an_answer_to_a_question_that_changed_passes_nothing() -> None:
    scene = stuck(1, 2, 3, 4)
    scene.session.history.pass_over(2, 3)
    assert scene.asks() == PageRequest(4)
