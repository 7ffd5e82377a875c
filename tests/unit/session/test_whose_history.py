from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import Diverged
from gateway.events.times import ticks
from gateway.session.checkpoint import Anchor, Checkpoint
from gateway.session.dedup_window import digest8
from gateway.session.finality import Sighting
from gateway.session.hub_clock import Moment
from gateway.session.types import Outcome, PageRequest, State
from tests.unit.session.scenes import OLD, Scene, clock, event, events, live

KNOWN = Checkpoint(verified=10, anchor=Anchor(10, "id-10", clock(-3600)))
SEEN = tuple(Sighting(latest, Moment(ticks(clock(-3600)))) for latest in (16, 20, 40, 100))
"""The hub had what is asked for here long ago: what its history does not show now it never will."""
AGED = replace(KNOWN, sightings=SEEN)


def test_history_is_read_from_just_before_the_anchor() -> None:
    scene = Scene(KNOWN)

    scene.connect(latest=12)

    assert scene.asks() == PageRequest(9)
    scene.answers(*events([10, 11, 12]))
    assert scene.published() == [11, 12]


def test_the_anchor_with_another_id_is_another_history() -> None:
    scene = Scene(KNOWN)
    scene.connect(latest=12)

    with pytest.raises(
        Diverged, match="event 10 was id-10 when it was published and is other in the hub's history now"
    ):
        scene.answers(event(10, id="other"), event(11))

    assert scene.published() == []


def test_the_anchor_without_an_id_is_known_by_its_time() -> None:
    scene = Scene(Checkpoint(verified=10, anchor=Anchor(10, None, clock(-3600))))
    scene.connect(latest=12)

    with pytest.raises(Diverged, match="event 10 was one of 2026"):
        scene.answers(event(10, at=-60, id=None))


def test_the_anchor_without_an_id_and_of_the_same_time_is_the_same() -> None:
    scene = Scene(Checkpoint(verified=10, anchor=Anchor(10, None, clock(-3600))))
    scene.connect(latest=11)

    scene.answers(event(10, id=None), event(11))

    assert scene.published() == [11]


def test_a_hub_that_has_less_than_what_is_verified_started_again() -> None:
    scene = Scene(KNOWN, grace=3.0)
    scene.connect(latest=9)
    scene.pushes(event(11, id="another's"))
    scene.session.on_latest(9, clock(3))
    assert scene.published() == []

    with pytest.raises(Diverged, match="the hub's latest event is 9, but 10 is published already"):
        scene.session.on_latest(9, clock(3.1))


def test_a_hub_whose_latest_lags_is_asked_again_and_then_believed() -> None:
    scene = live(event(9), event(10), checkpoint=KNOWN, latest=10, grace=3.0)
    scene.session.on_latest(9, clock(0))
    assert (scene.session.state, scene.session.wants_latest, scene.asks()) == (State.CATCHING_UP, True, None)
    scene.pushes(event(12, at=2))

    scene.session.on_latest(12, clock(2))
    scene.answers(*events([10, 11, 12]))

    assert scene.published() == [11, 12]
    assert scene.session.state is State.LIVE


def test_a_new_event_with_an_old_number_holds_the_rest_until_it_is_clear() -> None:
    scene = live(*events([10, 11, 12]), checkpoint=KNOWN, latest=12)
    assert scene.published() == [11, 12]

    assert scene.pushes(event(3, at=0, id="another's"), event(13, at=0, id="another's-13")) == [
        Outcome.HELD,
        Outcome.HELD,
    ]
    scene.session.on_latest(13, clock(0))
    with pytest.raises(Diverged):
        scene.answers(event(12, id="another's-12"), event(13, id="another's-13"))

    assert scene.published() == [11, 12]


def test_an_old_event_that_is_pushed_again_disturbs_nobody() -> None:
    scene = live(*events([10, 11, 12]), checkpoint=KNOWN, latest=12)

    assert scene.pushes(event(3, at=OLD - 100)) == [Outcome.BEFORE_START]

    assert scene.session.state is State.LIVE


def test_pushes_of_another_history_are_not_published_before_it_is_known() -> None:
    scene = Scene(KNOWN)
    scene.connect(latest=12)

    scene.pushes(event(13, id="other-13"), event(None, id="other"))
    with pytest.raises(Diverged):
        scene.answers(event(10, id="other-10"))

    assert scene.published() == []


def test_a_later_event_first_is_a_gap_and_announced() -> None:
    scene = Scene(AGED)
    scene.connect(latest=16)

    scene.answers(*events([15, 16]))
    assert scene.asks() == PageRequest(0)  # is there nothing before the anchor either?
    scene.answers(*events([15, 16]))
    assert scene.asks() == PageRequest(10)
    scene.answers(*events([15, 16]))

    assert scene.notifications("gap") == [{"FirstSeqId": 11, "LastSeqId": 14}]
    assert scene.published() == [15, 16]
    assert scene.late() == []
    assert scene.checkpoint.verified == 16


def test_a_gap_is_committed_with_the_place_after_it() -> None:
    scene = Scene(AGED)
    scene.connect(latest=16)
    for _ in range(3):
        scene.answers(*events([15, 16]))

    scene.commits(messages=1)

    assert [len(batch.items) for batch in scene.batches] == [1, 1, 1]
    again = scene.crashes(checkpoint=scene.crashes().session.checkpoint())
    again.connect(latest=16)
    again.answers(*events([16]))
    assert again.notifications("gap") == []


def test_a_gap_speaks_of_nothing_that_is_settled_or_held() -> None:
    scene = Scene(replace(AGED, settled=((12, 13),)))
    scene.connect(latest=20)
    scene.pushes(event(15, at=0))

    for _ in range(3):
        scene.answers(event(20), event(21))

    assert scene.notifications("gap") == [
        {"FirstSeqId": 11, "LastSeqId": 11},
        {"FirstSeqId": 14, "LastSeqId": 14},
        {"FirstSeqId": 16, "LastSeqId": 19},
    ]
    assert scene.published() == [15, 20, 21]


def test_many_small_gaps_are_announced_as_sixteen() -> None:
    settled = tuple((number, number) for number in range(12, 100, 2))
    scene = Scene(replace(AGED, settled=settled))
    scene.connect(latest=100)

    for _ in range(3):
        scene.answers(event(100))

    gaps = scene.notifications("gap")
    assert len(gaps) == 16
    assert gaps[0] == {"FirstSeqId": 11, "LastSeqId": 11}
    assert gaps[-1] == {"FirstSeqId": 41, "LastSeqId": 99}


def test_a_gap_before_a_young_event_is_told_once_nothing_can_appear_in_it() -> None:
    scene = Scene(KNOWN, grace=30)
    scene.connect(latest=15, at=0)
    for _ in range(3):
        scene.answers(event(15, at=-1))
    assert scene.published() == [15]
    assert scene.notifications("gap") == []

    scene.audits(event(13, at=-1), event(15, at=-1), latest=15, at=60)
    for _ in range(2):
        scene.answers(event(13, at=-1), event(15, at=-1))

    assert scene.published() == [15, 13]
    assert scene.late() == [13]
    assert scene.notifications("gap") == [{"FirstSeqId": 11, "LastSeqId": 12}]


def test_a_history_that_has_older_events_but_not_the_anchor_is_another_one() -> None:
    """Sparse sequences: the new hub has no event 10, so that no EventId can differ."""
    scene = Scene(KNOWN, grace=30)
    scene.connect(latest=12, at=0)

    def look_again() -> None:
        for seconds in range(100):
            scene.session.on_latest(12, clock(seconds * 10))
            scene.answers(event(12, id="other"))
            scene.answers(event(3, id="other"), event(12, id="other"))

    with pytest.raises(Diverged, match=r"has event 3 but no longer event 10 \(id-10\), which was published from it"):
        look_again()

    assert scene.published() == []


def test_a_hiccup_of_the_history_is_not_taken_for_another_one() -> None:
    scene = Scene(KNOWN, grace=30)
    scene.connect(latest=12, at=0)
    for seconds in range(5):
        scene.session.on_latest(12, clock(seconds * 20))
        assert scene.answers() is False
        assert scene.answers(*events([1, 2])) is True

    scene.session.on_latest(12, clock(200))
    scene.answers(*events([10, 11, 12]))

    assert scene.published() == [11, 12]


def test_a_token_refused_while_the_anchor_is_looked_for_proves_no_gap() -> None:
    scene = Scene(KNOWN)
    scene.connect(latest=12)
    scene.answers(event(None, id="x"), token="a")
    scene.session.history.on_token_refused()
    assert scene.asks() == PageRequest(9)
    scene.answers()
    scene.answers(event(None, id="y"), token="b")
    scene.session.history.on_token_refused()
    assert scene.asks() == PageRequest(0)

    scene.answers(*events([1, 2]))
    scene.answers(*events([10, 11, 12]))

    assert scene.notifications("gap") == []
    assert [number for number in scene.published() if number] == [11, 12]


def test_live_is_left_while_it_is_not_clear_whose_history_it_is() -> None:
    scene = live(*events([10, 11]), latest=11, checkpoint=KNOWN)
    assert scene.session.state is State.LIVE

    scene.audits(latest=12, at=100)
    scene.answers(*events([1, 2]))

    assert scene.session.state is State.CATCHING_UP


def test_an_empty_history_is_given_its_grace_and_then_a_gap() -> None:
    scene = Scene(KNOWN, grace=30)
    scene.connect(latest=12, at=0)

    for seconds in (0, 10, 30):
        scene.session.on_latest(12, clock(seconds))
        assert scene.answers() is False
        assert scene.answers() is True
    assert scene.notifications("gap") == []
    scene.session.on_latest(12, clock(31))
    scene.answers()
    scene.answers()
    scene.answers()

    assert scene.notifications("gap") == [{"FirstSeqId": 11, "LastSeqId": 12}]
    assert scene.session.state is State.LIVE
    assert scene.checkpoint.verified == 12


def test_an_empty_history_of_an_idle_account_is_no_gap() -> None:
    scene = Scene(KNOWN)
    scene.connect(latest=10)

    scene.answers()
    scene.answers()
    scene.answers()

    assert scene.session.state is State.LIVE
    assert scene.notifications("gap") == []


def test_a_gap_that_opens_between_two_pages_is_noticed() -> None:
    """While pages wait for the broker, or between two of them, a history may lose its beginning."""
    scene = Scene(AGED)
    scene.connect(latest=40)
    scene.answers(*events([10, 11, 12]), token="a")

    assert scene.answers(*events([20, 21])) is False
    assert scene.asks() == PageRequest(11)  # is 12 still there?
    for _ in range(3):
        scene.answers(*events([20, 21]))

    assert scene.published() == [11, 12, 20, 21]
    assert scene.notifications("gap") == [{"FirstSeqId": 13, "LastSeqId": 19}]


def test_sparse_pages_each_begin_with_the_last_event_of_the_one_before() -> None:
    scene = Scene(AGED)
    scene.connect(latest=40)
    scene.answers(*events([10, 11, 12]), token="a")
    scene.answers(*events([20, 21]), token="b")

    scene.answers(*events([12, 20, 21]), token="c")

    assert scene.asks() == PageRequest(20)
    scene.answers(*events([21, 30, 40]))
    assert scene.published() == [11, 12, 20, 21, 30, 40]
    assert scene.notifications("gap") == []


def test_a_young_anchor_is_checked_too() -> None:
    young = Checkpoint(verified=0, anchor=Anchor(4, "id-4", clock(0)), settled=((4, 6),))
    scene = Scene(young)
    scene.connect(latest=9)

    with pytest.raises(Diverged):
        scene.answers(event(4, id="other"))


def test_what_came_into_view_before_a_young_anchor_is_read() -> None:
    identities = b"".join(digest8(f"id-{sequence}") for sequence in (4, 5, 6))
    young = Checkpoint(verified=0, anchor=Anchor(4, "id-4", clock(0)), settled=((4, 6),), identities=identities)
    scene = Scene(young)
    scene.connect(latest=6)

    scene.answers(*events([4, 5, 6], at=0))
    assert scene.asks() == PageRequest(0)
    scene.answers(*events([3, 4, 5, 6], at=0))

    assert scene.published() == [3]
    assert scene.late() == [3]


# Whose key ---------------------------------------------------------------------------------------------------


def test_the_subject_of_the_key_is_pinned_with_the_first_checkpoint() -> None:
    scene = Scene()
    scene.connect(latest=0, subject="user-1")
    scene.commits()

    assert scene.checkpoint.subject == "user-1"


def test_another_subject_is_refused_before_anything_is_published() -> None:
    scene = Scene(Checkpoint(verified=10, subject="user-1"))

    with pytest.raises(Diverged, match=r"the key is of subject 'user-2'.*came with one of 'user-1'"):
        scene.connect(subject="user-2")


def test_a_key_without_a_subject_is_not_compared_and_does_not_unpin() -> None:
    scene = Scene(Checkpoint(verified=10, anchor=KNOWN.anchor, subject="user-1"))

    scene.connect(latest=11)
    scene.answers(*events([10, 11]))
    scene.commits()

    assert scene.checkpoint.subject == "user-1"


def test_a_subject_is_pinned_later_only_where_the_history_is_the_same() -> None:
    scene = Scene(KNOWN)
    scene.connect(latest=11, subject="user-1")
    assert scene.session.checkpoint().subject is None

    scene.answers(*events([10, 11]))
    scene.commits()

    assert scene.checkpoint.subject == "user-1"


def test_a_very_long_subject_is_kept_as_its_digest() -> None:
    scene = Scene()
    scene.connect(latest=0, subject="u" * 100_000)
    scene.commits()
    other = Scene(scene.checkpoint)

    assert len(scene.batches[-1].checkpoint) < 200
    other.connect(subject="u" * 100_000)
    with pytest.raises(Diverged):
        Scene(scene.checkpoint).connect(subject="v" * 100_000)


def test_the_incarnation_is_carried_on() -> None:
    scene = Scene(Checkpoint(verified=0, incarnation=4))
    scene.connect(latest=1)
    scene.answers(event(1))
    scene.commits()

    assert scene.session.incarnation == 4
    assert scene.checkpoint.incarnation == 4
