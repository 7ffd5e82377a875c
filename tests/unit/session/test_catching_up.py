from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.session.checkpoint import Anchor, Checkpoint, decode_checkpoint
from gateway.session.types import Outcome, Page, PageRequest, State
from tests.unit.session.scenes import Scene, clock, event, events, live

# A new account ---------------------------------------------------------------------------------------------


def test_nothing_is_asked_for_before_the_hub_confirmed_the_subscription() -> None:
    scene = Scene()
    scene.session.on_connected()

    assert not scene.session.wants_latest
    assert scene.asks() is None

    scene.session.on_subscribed()
    assert scene.session.wants_latest
    assert scene.asks() is None

    scene.session.on_latest(3, clock(0))
    assert not scene.session.wants_latest
    assert scene.asks() == PageRequest(0)


def test_the_first_checkpoint_is_committed_before_anything_else() -> None:
    scene = Scene()
    scene.connect(latest=2)
    scene.answers(*events([1, 2]))

    first, second = scene.session.take(100, 10**6), scene.session.take(100, 10**6)

    assert first is not None
    assert first.items == ()
    assert replace(decode_checkpoint(first.checkpoint), sightings=()) == Checkpoint(verified=0)
    assert second is not None
    assert [item.content for item in second.items] == events([1, 2])


@pytest.mark.parametrize(
    ("start", "since", "published"),
    [("earliest", 0, [1, 2, 3, 4]), ("latest", 2, [4]), (2, 1, [3, 4]), (7, 2, [4]), ("2", 1, [3, 4])],
)
def test_a_new_account_begins_where_it_is_told_to(start: str | int, since: int, published: list[int]) -> None:
    scene = Scene(start=start)
    scene.connect(latest=3)

    assert scene.asks() == PageRequest(since)
    scene.answers(*events([number for number in [1, 2, 3, 4] if number > since]))

    assert scene.published() == published


def test_pushes_from_before_the_start_are_not_published() -> None:
    scene = Scene(start="latest")
    scene.session.on_connected()
    scene.pushes(event(5))
    scene.session.on_subscribed()

    scene.session.on_latest(9, clock(0))
    scene.answers(event(9), event(10))

    assert scene.published() == [10]


def test_the_event_at_the_start_becomes_the_anchor() -> None:
    scene = Scene(start="latest")
    scene.connect(latest=9)

    scene.answers(event(9))
    scene.commits()

    assert replace(scene.checkpoint, sightings=()) == Checkpoint(verified=9, anchor=Anchor(9, "id-9", clock(-3600)))


def test_a_lost_checkpoint_of_a_known_account_stops_it_in_words() -> None:
    scene = Scene(known=True)

    with pytest.raises(Exception, match="the checkpoint of acme is gone, though the account is known"):
        scene.session.on_connected()
    assert scene.session.take(10, 10) is None


def test_a_known_account_with_its_checkpoint_goes_on() -> None:
    scene = Scene(Checkpoint(verified=0), known=True)

    scene.connect(latest=0)

    assert scene.asks() == PageRequest(0)


# History and live ------------------------------------------------------------------------------------------


def test_pushes_are_held_until_history_overlaps_them() -> None:
    scene = Scene()
    scene.connect(latest=2)

    assert scene.pushes(event(5)) == [Outcome.HELD]
    scene.answers(*events([1, 2]), token="more")
    assert scene.session.state is State.CATCHING_UP
    assert scene.published() == [1, 2]

    scene.answers(*events([3, 4, 5]))

    assert scene.session.state is State.LIVE
    assert scene.published() == [1, 2, 3, 4, 5]
    assert scene.late() == []


def test_a_last_page_is_not_the_end_while_history_lags_behind_pushes() -> None:
    scene = Scene()
    scene.connect(latest=2)
    scene.pushes(event(4, at=0))

    assert scene.answers(*events([1, 2])) is False
    assert scene.answers() is True
    assert scene.session.state is State.CATCHING_UP

    scene.answers(event(3, at=0), event(4, at=0))

    assert scene.published() == [1, 2, 3, 4]
    assert scene.session.state is State.LIVE


def test_a_last_page_below_the_latest_known_is_not_the_end() -> None:
    scene = Scene()
    scene.connect(latest=5)

    scene.answers(*events([1, 2]))
    scene.answers()

    assert scene.session.state is State.CATCHING_UP


def test_history_that_never_shows_the_latest_is_given_up_after_its_grace() -> None:
    scene = Scene(grace=30)
    scene.connect(latest=5)
    scene.answers(*events([1, 2]))
    scene.answers()

    scene.session.on_latest(5, clock(30))
    scene.answers()
    assert scene.session.state is State.CATCHING_UP
    scene.session.on_latest(5, clock(31))
    scene.answers()

    assert scene.session.state is State.LIVE


def test_a_push_that_history_never_shows_is_published_after_the_grace() -> None:
    scene = Scene(grace=30)
    scene.connect(latest=1)
    scene.pushes(event(9, at=0))
    scene.answers(event(1))

    for seconds in (10, 20, 31):
        scene.session.on_latest(1, clock(seconds))
        scene.answers()
        assert scene.session.state is State.CATCHING_UP
    scene.session.on_latest(1, clock(41))
    scene.answers()
    scene.waits(0.05)

    assert scene.published() == [1, 9]


def test_without_a_push_to_overlap_with_the_first_hole_means_paging_again() -> None:
    scene = Scene()
    scene.connect(latest=2)
    scene.answers(*events([1, 2]))
    assert scene.session.state is State.LIVE

    assert scene.pushes(event(5, at=0)) == [Outcome.HELD]
    assert scene.session.state is State.CATCHING_UP
    assert scene.session.wants_latest
    scene.session.on_latest(5, clock(0))
    scene.answers(*events([2, 3, 4, 5]))

    assert scene.session.state is State.LIVE
    assert scene.published() == [1, 2, 3, 4, 5]
    assert scene.late() == []


def test_sparse_pushes_end_the_probation_at_the_first_overlap() -> None:
    scene = Scene()
    scene.connect(latest=2)
    scene.answers(*events([1, 2]))
    scene.pushes(event(500, at=0))
    scene.session.on_latest(500, clock(0))
    scene.answers(event(2), event(500, at=0))

    scene.pushes(event(900, at=0))

    assert scene.session.state is State.LIVE


def test_the_next_push_without_a_hole_ends_the_probation() -> None:
    scene = Scene()
    scene.connect(latest=2)
    scene.answers(*events([1, 2]))

    assert scene.pushes(event(3, at=0)) == [Outcome.QUEUED]
    scene.pushes(event(9, at=0))

    assert scene.session.state is State.LIVE


def test_pushes_from_before_the_confirmation_prove_nothing() -> None:
    """Signals that are on come at once; what came between them and the subscription is not pushed."""
    scene = Scene()
    scene.session.on_connected()
    scene.pushes(event(9, at=0))
    scene.session.on_subscribed()
    scene.session.on_latest(2, clock(0))

    scene.answers(*events([1, 2]))
    scene.answers()
    assert scene.session.state is State.CATCHING_UP
    scene.answers(*events([3, 4, 5, 6, 7, 8], at=0), event(9, at=0))

    assert scene.published() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert scene.late() == []


# Pages that are not as they should be ----------------------------------------------------------------------


def test_a_page_out_of_order_is_published_in_order() -> None:
    scene = Scene()
    scene.connect(latest=4)

    scene.answers(*events([3, 1, 4, 2, 3]))

    assert scene.published() == [1, 2, 3, 4]
    assert scene.checkpoint.verified == 4


def test_events_at_or_below_what_was_asked_for_are_left_out() -> None:
    scene = live(*events([1, 2, 3]), latest=3).crashes()
    scene.connect(latest=4)

    scene.answers(*events([1, 2, 3, 4]))

    assert scene.published() == [4]


def test_a_token_that_leads_on_is_followed() -> None:
    scene = Scene()
    scene.connect(latest=4)

    scene.answers(*events([1, 2]), token="a")

    assert scene.asks() == PageRequest(0, "a")


def test_a_repeated_token_is_followed_while_it_brings_something_new() -> None:
    scene = Scene()
    scene.connect(latest=5)

    scene.answers(event(1), token="a")
    scene.answers(event(2), token="a")
    assert scene.asks() == PageRequest(0, "a")
    scene.answers(event(2), token="a")

    assert scene.asks() == PageRequest(2)


def test_tokens_that_go_in_a_circle_are_given_up() -> None:
    scene = Scene()
    scene.connect(latest=5)
    scene.answers(event(1), token="a")
    scene.answers(token="b")

    assert scene.answers(token="a") is True
    assert scene.asks() == PageRequest(1)


def test_empty_pages_with_ever_new_tokens_do_not_go_on_for_ever() -> None:
    scene = Scene()
    scene.connect(latest=5)

    pages = 0
    while not scene.answers(token=f"token {pages}"):
        pages += 1

    assert pages == 32
    assert scene.asks() == PageRequest(0)


def test_a_hub_that_ignores_its_ever_new_tokens_is_read_by_sequences() -> None:
    """It shows the first page again and again: no hub needs ten thousand of them."""
    scene = Scene()
    scene.connect(latest=30)

    pages = 0
    while scene.session.state is not State.LIVE:
        request = scene.asks()
        assert request is not None
        scene.answers(*events(range(request.since + 1, min(request.since + 10, 30) + 1)), token=f"token {pages}")
        pages += 1

    assert scene.published() == list(range(1, 31))
    assert pages < 30


def test_two_pages_in_turn_under_ever_new_tokens_do_not_go_on_for_ever() -> None:
    scene = Scene()
    scene.connect(latest=9)
    scene.answers(*events([1, 2, 3, 4]), token="first")

    pages = 0
    while (scene.asks() or PageRequest(0)).token is not None:
        shown = [event(None, id="a"), event(3)] if pages % 2 else [event(None, id="b"), event(4)]
        scene.answers(*shown, token=f"token {pages}")
        pages += 1

    assert scene.asks() == PageRequest(4)
    assert pages < 10


def test_pages_that_go_down_are_read_to_the_end() -> None:
    """Each shows lower sequences than the one before, under a token of its own; none of them is the same."""
    scene = live(*events([199, 200]), latest=200)
    scene.session.on_latest(200, clock(5))
    scene.session.history.audit()
    scene.answers(*events([199, 200]))  # the anchor is found
    for last in range(200, 0, -2):
        scene.answers(*events([last - 1, last]), token=f"before {last - 1}")

    assert sorted(number or 0 for number in scene.published()) == list(range(1, 201))
    assert scene.asks() == PageRequest(0, "before 1")


def test_an_empty_page_with_a_token_is_not_the_end() -> None:
    scene = Scene()
    scene.connect(latest=2)

    scene.answers(token="a")
    scene.answers(*events([1, 2]))

    assert scene.published() == [1, 2]


def test_after_a_token_that_the_hub_refuses_it_goes_on_from_the_last_event() -> None:
    scene = Scene()
    scene.connect(latest=5)
    scene.answers(*events([1, 2]), token="a")

    scene.session.history.on_token_refused()

    assert scene.asks() == PageRequest(2)


def test_a_refused_token_without_a_token_in_question_changes_nothing() -> None:
    scene = Scene()
    scene.connect(latest=5)

    scene.session.history.on_token_refused()

    assert scene.asks() == PageRequest(0)


def test_the_answer_to_another_question_is_ignored() -> None:
    scene = Scene()
    scene.connect(latest=2)

    assert scene.session.history.on_page(Page(PageRequest(77), events([78])), 0.0) is False

    assert scene.published() == []


def test_a_page_that_overlaps_the_last_one_is_no_stray() -> None:
    scene = Scene()
    scene.connect(latest=4)
    scene.answers(*events([1, 2, 3]), token="a")

    scene.answers(*events([2, 3, 4]))

    assert scene.published() == [1, 2, 3, 4]
    assert scene.session.counts.strays == 0


def test_an_event_that_a_later_page_shows_out_of_place_is_counted() -> None:
    scene = Scene(start=1)
    scene.connect(latest=9)
    scene.answers(*events([2, 3, 4]), token="a")
    scene.commits()

    scene.answers(event(2), event(5))

    assert scene.published() == [2, 3, 4, 5]
    assert scene.session.counts.strays == 0, "it is known"


def test_an_event_that_a_later_page_shows_in_a_hole_is_published_late() -> None:
    scene = Scene()
    scene.connect(latest=9)
    scene.answers(*events([5, 6]), token="a")

    scene.answers(*events([2, 7]))

    assert scene.published() == [5, 6, 2, 7]
    assert scene.late() == [2]


# What is final ---------------------------------------------------------------------------------------------


def test_a_page_older_than_the_grace_moves_verified_at_once() -> None:
    scene = Scene(grace=30)
    scene.connect(latest=3, at=0)

    scene.answers(event(1, at=-40), event(2, at=-30), event(3, at=-29.9))
    scene.commits()

    assert scene.checkpoint.verified == 2
    assert scene.checkpoint.settled == ((3, 3),)
    assert scene.checkpoint.anchor == Anchor(2, "id-2", clock(-30))


def test_what_follows_a_young_event_is_not_final_however_old_it_says_it_is() -> None:
    scene = Scene(grace=30)
    scene.connect(latest=3, at=0)

    scene.answers(event(1, at=-40), event(2, at=0), event(3, at=-40))
    scene.commits()

    assert scene.checkpoint.verified == 1


def test_verified_never_passes_what_was_read_while_it_was_young() -> None:
    """History lags with holes: 2 may come into view later, so that 3 must be read again before it is final."""
    scene = Scene(grace=30)
    scene.connect(latest=5, at=0)
    scene.answers(event(1, at=-40), event(3, at=-10), token="a")

    scene.session.on_latest(5, clock(60))
    scene.answers(event(4, at=0), event(5, at=0))
    scene.commits()
    assert scene.checkpoint.verified == 1

    scene.audits(event(1, at=-40), event(2, at=-10), event(3, at=-10), event(4, at=0), event(5, at=0), latest=5, at=60)

    assert scene.published() == [1, 3, 4, 5, 2]
    assert scene.late() == [2]
    assert scene.checkpoint.verified == 5


def test_a_time_in_the_future_does_not_hold_up_verified_for_ever() -> None:
    scene = live(event(1), event(2, at=10**6), event(3, at=-1), latest=3, grace=30)
    assert scene.checkpoint.verified == 1

    for seconds in (31, 62):
        scene.audits(event(1), event(2, at=10**6), event(3, at=-1), latest=3, at=seconds)
    scene.commits()

    assert scene.checkpoint.verified == 3


def test_restarts_every_few_seconds_do_not_keep_verified_from_moving() -> None:
    scene = live(event(1), latest=1, grace=30)

    for seconds in range(0, 120, 5):
        sequence = 2 + seconds // 5
        shown = [event(number, at=5 * (number - 2)) for number in range(2, sequence + 1)]
        scene = scene.crashes()
        scene.connect(latest=sequence, at=seconds)
        since = scene.asks()
        assert since is not None
        everything = [event(1), *shown]
        scene.answers(*[one for one in everything if (one.sequence or 0) > since.since])
        scene.commits()

    assert scene.checkpoint.verified >= 18


def test_the_anchor_of_a_new_account_is_the_first_event_that_it_sees() -> None:
    scene = Scene(grace=30)
    scene.connect(latest=4, at=0)

    scene.answers(event(4, at=-1), event(5, at=-1))
    scene.commits()

    assert scene.checkpoint.verified == 0
    assert scene.checkpoint.anchor == Anchor(4, "id-4", clock(-1))


# Drops and crashes -----------------------------------------------------------------------------------------


def test_after_a_drop_history_is_read_again_from_the_anchor() -> None:
    scene = live(*events([1, 2]), event(3, at=0), latest=3)

    scene.session.on_disconnected()
    assert scene.session.state is State.OFFLINE
    assert scene.asks() is None
    scene.connect(latest=4)

    assert scene.asks() == PageRequest(1)
    scene.answers(event(2), event(3, at=0), event(4, at=0))
    assert scene.published() == [1, 2, 3, 4]


def test_what_is_held_at_a_drop_is_not_lost_where_history_never_shows_it() -> None:
    scene = live(*events([1, 2]), latest=2, grace=30)
    scene.pushes(event(3, at=0), event(5, at=0))
    scene.session.on_disconnected()

    scene.connect(latest=6, at=1)
    scene.answers(event(2), event(3, at=0), event(6, at=0))

    assert scene.published() == [1, 2, 3, 5, 6]
    assert scene.late() == []


def test_what_was_taken_but_not_committed_comes_again_after_a_crash() -> None:
    scene = Scene()
    scene.connect(latest=3)
    scene.answers(*events([1, 2, 3]))
    scene.session.take(10, 10**6)
    stored = scene.session.take(1, 10**6)
    assert stored is not None
    scene.session.take(10, 10**6)  # its answer never came

    other = Scene(decode_checkpoint(stored.checkpoint))
    other.connect(latest=3)
    other.answers(*events([1, 2, 3]))

    assert other.published() == [2, 3]


def test_a_push_while_offline_is_held() -> None:
    scene = Scene(Checkpoint(verified=1))

    assert scene.pushes(event(2)) == [Outcome.HELD]
    assert scene.published() == []


def test_page_after_page_without_a_sequence_is_read_to_the_end() -> None:
    scene = Scene()
    scene.connect(latest=100)
    for number in range(60):
        scene.answers(event(None, id=f"{number}-a"), event(None, id=f"{number}-b"), token=f"token-{number}")

    assert len(scene.published()) == 120
    assert scene.asks() == PageRequest(0, "token-59")


# Asked for ahead -------------------------------------------------------------------------------------------


def test_what_is_wanted_after_a_page_is_known_before_the_page_is_taken_in() -> None:
    scene = Scene()
    scene.connect(latest=6)

    expected = scene.session.history.wants_next("next")
    scene.answers(*events([1, 2]), token="next")

    assert expected == PageRequest(0, "next") == scene.asks()


def test_nothing_is_expected_after_the_end_of_a_history_or_while_live() -> None:
    scene = Scene()
    scene.connect(latest=2)
    assert scene.session.history.wants_next(None) is None

    scene.answers(*events([1, 2]))

    assert scene.session.state is State.LIVE
    assert scene.session.history.wants_next("next") is None


def test_nothing_is_expected_while_much_waits_for_the_broker() -> None:
    scene = Scene(buffer_bytes=4096)
    scene.connect(latest=9)
    scene.answers(*events([1, 2, 3, 4, 5]), token="next")

    assert scene.asks() is not None
    assert scene.session.history.wants_next("more") is None
