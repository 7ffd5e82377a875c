from __future__ import annotations

import pytest

from gateway.session.checkpoint import Checkpoint
from gateway.session.subscriptions import MAX_BYTES, Subscription, Subscriptions
from gateway.session.types import Outcome
from tests.unit.session.scenes import Scene, clock, event, events, letter, live


def changed(scene: Scene, strategies: list[int] | None, *, latest: int, at: float = 0.0) -> None:
    """Change the subscription and let the hub say what its latest is."""
    scene.session.subscribe(strategies)
    assert scene.session.wants_latest
    scene.session.on_latest(latest, clock(at))  # may have been under way
    scene.session.on_latest(latest, clock(at))
    assert not scene.session.wants_latest


def test_everything_is_published_from_the_beginning() -> None:
    scene = live(event(1, strategy=7), event(2), latest=2)

    assert scene.session.strategies is None
    assert scene.published() == [1, 2]
    assert scene.checkpoint.subscriptions == (Subscription(0),)


def test_a_narrowed_subscription_holds_from_the_latest_on_and_is_announced() -> None:
    scene = live(event(1, strategy=7), latest=1)

    changed(scene, [8, 5], latest=4)
    outcomes = scene.pushes(event(2, strategy=7), event(3, strategy=7), event(4, strategy=7), event(5, strategy=7))
    outcomes += scene.pushes(event(6, strategy=8), event(7))

    assert outcomes[3] is Outcome.FILTERED
    assert scene.published() == [1, 2, 3, 4, 6, 7]
    assert scene.notifications("subscription-changed") == [{"FromSeqId": 5, "Strategies": "5,8"}]
    assert [kind for batch in scene.batches for kind in batch.filtered] == ["order-update"]


def test_narrowing_does_not_hide_what_history_shows_late() -> None:
    scene = live(event(1, strategy=7), latest=1)
    scene.pushes(event(2, strategy=7, at=0))
    scene.pushes(event(4, strategy=7, at=0))
    scene.waits(1)
    changed(scene, [], latest=4)

    scene.audits(event(1), *(event(number, strategy=7, at=0) for number in (2, 3, 4, 5)), latest=5, at=100)

    assert scene.published() == [1, 2, 4, 3]
    assert scene.late() == [3]
    assert scene.checkpoint.verified == 5


def test_widening_does_not_publish_what_came_before_it() -> None:
    scene = Scene()
    scene.session.subscribe([1])
    scene.connect(latest=3)
    scene.answers(event(1, strategy=1), event(2, strategy=2), event(3, strategy=1))
    assert scene.published() == [1, 3]

    changed(scene, None, latest=4)
    scene.audits(event(3), event(4, strategy=2), event(5, strategy=2), latest=5, at=100)

    assert scene.published() == [1, 3, 5]
    assert scene.notifications("subscription-changed") == [
        {"FromSeqId": 0, "Strategies": "1"},
        {"FromSeqId": 5, "Strategies": None},
    ]


def test_a_change_holds_after_everything_that_is_held_or_was_pushed() -> None:
    scene = live(event(1), latest=1)
    scene.pushes(event(2, at=0), event(9, at=0, strategy=1))

    changed(scene, [], latest=3)
    scene.waits(1)

    assert scene.published() == [1, 2, 9]
    assert scene.notifications("subscription-changed")[0]["FromSeqId"] == 10


def test_an_answer_under_way_when_the_subscription_changed_does_not_count() -> None:
    scene = live(event(1), latest=1)

    scene.session.subscribe([])
    scene.session.on_latest(1, clock(0))
    assert scene.session.wants_latest
    scene.session.on_latest(5, clock(0))

    assert scene.notifications("subscription-changed")[0]["FromSeqId"] == 6


def test_a_new_account_begins_with_its_subscription_and_says_so() -> None:
    scene = Scene()
    scene.session.subscribe([1])
    scene.connect(latest=2)

    scene.answers(event(1, strategy=1), event(2, strategy=2))

    assert scene.published() == [1]
    assert scene.notifications("subscription-changed") == [{"FromSeqId": 0, "Strategies": "1"}]
    assert scene.checkpoint.subscriptions == (Subscription(0, frozenset({1})),)


def test_the_same_subscription_again_changes_nothing() -> None:
    scene = live(event(1), latest=1)

    scene.session.subscribe(None)

    assert not scene.session.wants_latest


def test_a_change_that_is_taken_back_in_time_changes_nothing() -> None:
    scene = live(event(1), latest=1)

    scene.session.subscribe([1])
    scene.session.subscribe(None)
    scene.session.on_latest(1, clock(0))
    scene.session.on_latest(1, clock(0))

    assert scene.notifications("subscription-changed") == []


def test_nothing_is_announced_before_it_is_clear_whose_history_it_is() -> None:
    scene = live(*events([1, 2]), latest=2).crashes()
    scene.session.subscribe([1])

    scene.connect(latest=2)
    scene.session.on_latest(2, clock(0))
    assert scene.notifications("subscription-changed") == []
    scene.answers(event(2))
    scene.session.on_latest(2, clock(0))

    assert scene.notifications("subscription-changed") == [{"FromSeqId": 3, "Strategies": "1"}]


def test_a_subscription_survives_a_crash_with_the_batch_that_announces_it() -> None:
    scene = live(event(1), latest=1)
    changed(scene, [1], latest=1)
    before = scene.checkpoint
    scene.commits()

    assert before.subscriptions == (Subscription(0),)
    assert scene.checkpoint.subscriptions == (Subscription(2, frozenset({1})),)
    assert scene.crashes().session.strategies == frozenset({1})


def test_filtered_events_are_settled_across_a_crash() -> None:
    scene = live(event(1), latest=1)
    changed(scene, [1], latest=1)
    scene.pushes(event(2, strategy=2, at=0), event(3, strategy=1, at=0))
    scene.commits()

    assert scene.checkpoint.settled == ((2, 3),)


def test_only_filtered_events_are_a_batch_without_items() -> None:
    scene = live(event(1), latest=1)
    changed(scene, [], latest=1)
    scene.commits()

    scene.pushes(event(2, strategy=2, at=0))
    batch = scene.session.take(10, 10**6)

    assert batch is not None
    assert (batch.items, batch.filtered) == ((), ("order-update",))


def test_an_event_without_sequence_is_judged_by_the_newest_subscription() -> None:
    scene = live(event(1), latest=1)
    changed(scene, [1], latest=1)

    assert scene.pushes(event(None, id="x", strategy=2)) == [Outcome.FILTERED]
    assert scene.pushes(event(None, id="x", strategy=2)) == [Outcome.DUPLICATE]
    assert scene.pushes(event(None, id="y", strategy=1)) == [Outcome.QUEUED]


def test_dead_letters_pass_every_subscription() -> None:
    scene = live(event(1), latest=1)
    changed(scene, [], latest=1)

    assert scene.pushes(letter(None)) == [Outcome.QUEUED]


def test_subscriptions_that_nothing_can_fall_under_any_more_are_forgotten() -> None:
    scene = live(event(1), latest=1)
    changed(scene, [1], latest=1)
    changed(scene, [2], latest=2)
    scene.commits()
    assert len(scene.checkpoint.subscriptions) == 2

    scene.audits(event(1), event(2, at=0), event(3, at=0), latest=3, at=100)
    scene.commits()

    assert scene.checkpoint.subscriptions == (Subscription(3, frozenset({2})),)


def test_more_strategies_than_a_checkpoint_remembers_are_refused_in_words() -> None:
    scene = Scene()

    with pytest.raises(ValueError, match="10000 strategies are more than one subscription can name"):
        scene.session.subscribe(range(10_000))


def test_a_change_for_which_there_is_no_room_waits_until_verified_moves() -> None:
    scene = live(event(1), latest=1)
    latest = 1
    many = list(range(100_000, 101_742))
    for change in range(2):
        latest += 1
        changed(scene, [*many, change], latest=latest)

    scene.session.subscribe([1])
    assert not scene.session.wants_latest
    assert scene.session.strategies == frozenset({1})
    scene.audits(event(1), event(2, at=0), event(3, at=0), event(4, at=0), latest=4, at=100)
    scene.commits()
    assert scene.session.wants_latest
    scene.session.on_latest(4, clock(100))
    scene.session.on_latest(4, clock(100))
    scene.commits()

    assert scene.checkpoint.subscriptions[-1] == Subscription(5, frozenset({1}))
    assert max(len(batch.checkpoint) for batch in scene.batches) < MAX_BYTES + 1000


def test_an_event_falls_under_the_subscription_that_held_at_its_sequence() -> None:
    held = Subscriptions((Subscription(5, frozenset({1})), Subscription(8, None), Subscription(9, frozenset())))

    wanted = [number for number in range(1, 12) if held.wants(event(number, strategy=2))]

    assert wanted == [8]
    assert [number for number in range(1, 12) if held.wants(event(number, strategy=1))] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_checkpoint_with_a_subscription_goes_on_with_it() -> None:
    scene = Scene(Checkpoint(verified=1, subscriptions=(Subscription(0, frozenset({3})),)))
    scene.connect(latest=3)

    scene.answers(event(2, strategy=3), event(3, strategy=4))

    assert scene.published() == [2]
