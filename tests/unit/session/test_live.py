from __future__ import annotations

from gateway.events.event import Event
from gateway.session.checkpoint import Checkpoint
from gateway.session.dedup_window import DIGEST_BYTES
from gateway.session.types import Outcome, PageRequest, State
from tests.unit.session.scenes import OLD, Scene, clock, event, events, letter, live

# Order -----------------------------------------------------------------------------------------------------


def test_a_push_without_a_hole_waits_for_nothing() -> None:
    scene = live(*events([1, 2]), latest=2)

    assert scene.pushes(event(3, at=0), event(4, at=0)) == [Outcome.QUEUED, Outcome.QUEUED]

    assert scene.session.deadline is None
    assert scene.published() == [1, 2, 3, 4]


def settled() -> Scene:
    """Return a live scene that is past its probation."""
    scene = live(*events([1]), latest=1)
    scene.pushes(event(2, at=0))
    assert scene.published() == [1, 2]
    return scene


def test_a_push_that_leaves_a_hole_waits_for_what_is_missing() -> None:
    scene = settled()

    assert scene.pushes(event(4, at=0)) == [Outcome.HELD]
    assert scene.session.deadline == scene.now + 0.05
    assert scene.pushes(event(3, at=0)) == [Outcome.QUEUED]

    assert scene.session.deadline is None
    assert scene.published() == [1, 2, 3, 4]
    assert scene.late() == []


def test_after_the_reorder_window_it_is_published_and_what_follows_is_late() -> None:
    scene = settled()
    scene.pushes(event(4, at=0))

    scene.waits(0.049)
    assert scene.published() == [1, 2]
    scene.waits(0.001)
    assert scene.published() == [1, 2, 4]
    assert scene.pushes(event(3, at=0)) == [Outcome.LATE]

    assert scene.published() == [1, 2, 4, 3]
    assert scene.late() == [3]


def test_what_waited_long_enough_takes_along_only_what_is_before_it() -> None:
    scene = settled()
    scene.pushes(event(6, at=0))
    scene.now += 0.03
    scene.pushes(event(4, at=0), event(9, at=0))

    scene.waits(0.02)

    assert scene.published() == [1, 2, 4, 6]
    assert scene.session.deadline is not None
    scene.waits(0.03)
    assert scene.published() == [1, 2, 4, 6, 9]


def test_without_a_reorder_window_nothing_waits() -> None:
    scene = live(event(1), latest=1, reorder_window=0.0)
    scene.pushes(event(2, at=0), event(9, at=0))

    scene.waits(0)

    assert scene.published() == [1, 2, 9]


# Repeats ---------------------------------------------------------------------------------------------------


def test_a_repeated_push_is_published_once_wherever_the_first_one_stands() -> None:
    scene = settled()

    assert scene.pushes(event(3, at=0), event(3, at=0)) == [Outcome.QUEUED, Outcome.DUPLICATE]
    assert scene.pushes(event(9, at=0), event(9, at=0)) == [Outcome.HELD, Outcome.DUPLICATE]
    scene.waits(1)
    scene.commits()
    assert scene.pushes(event(3, at=0), event(9, at=0), event(1)) == [Outcome.DUPLICATE] * 3

    assert scene.published() == [1, 2, 3, 9]


def test_a_push_from_before_the_account_began_is_stale() -> None:
    scene = Scene(start=4)
    scene.connect(latest=6)
    scene.answers(*events([4, 5, 6]))
    scene.commits()

    assert scene.pushes(event(5), event(3)) == [Outcome.DUPLICATE, Outcome.BEFORE_START]

    assert scene.published() == [5, 6]


def test_two_events_with_two_sequences_are_two_whatever_their_ids() -> None:
    scene = settled()

    scene.pushes(event(3, at=0, id="same"), event(4, at=0, id="same"))

    assert scene.published() == [1, 2, 3, 4]


def test_an_event_without_sequence_is_published_once() -> None:
    scene = settled()

    assert scene.pushes(event(None, id="x"), event(None, id="x")) == [Outcome.QUEUED, Outcome.DUPLICATE]
    scene.commits()
    assert scene.pushes(event(None, id="x")) == [Outcome.DUPLICATE]

    assert scene.published() == [1, 2, None]


def test_an_event_without_sequence_and_id_is_known_by_its_body() -> None:
    scene = settled()

    outcomes = scene.pushes(
        event(None, id=None, body=b"one"), event(None, id=None, body=b"one"), event(None, id=None, body=b"two")
    )

    assert outcomes == [Outcome.QUEUED, Outcome.DUPLICATE, Outcome.QUEUED]


def test_an_event_without_sequence_is_remembered_over_a_crash_if_committed() -> None:
    scene = settled()
    scene.pushes(event(None, id="x"))
    scene.commits()
    scene.pushes(event(None, id="y"))

    other = scene.crashes()
    other.connect(latest=2)
    other.pushes(event(None, id="x"), event(None, id="y"))
    other.answers(event(1), event(None, id="x"), event(None, id="y"), event(2, at=0))

    assert [item.content.id for item in other.commits() if item.content.sequence is None] == ["y"]  # type: ignore[union-attr]


def test_an_event_first_live_without_its_sequence_is_settled_by_it_later() -> None:
    scene = settled()
    scene.pushes(event(None, id="id-3"))
    scene.commits()

    scene.audits(event(1), event(2, at=0), event(3, at=0), latest=3, at=100)
    scene.commits()

    assert scene.published() == [1, 2, None]
    assert scene.checkpoint.verified == 3


def test_the_settled_sequence_of_such_an_event_survives_a_crash() -> None:
    scene = settled()
    scene.pushes(event(None, id="id-3"))
    scene.commits()
    scene.pushes(event(3, at=0))
    scene.commits()

    assert scene.checkpoint.settled == ((2, 3),)
    assert scene.checkpoint.unsequenced == b""
    other = scene.crashes()
    other.connect(latest=3)
    other.answers(*events([1, 2, 3]))
    assert other.published() == []


def test_one_event_without_sequence_accounts_for_one_sequence() -> None:
    scene = settled()
    scene.pushes(event(None, id="same"))

    scene.pushes(event(3, at=0, id="same"), event(4, at=0, id="same"))

    assert scene.published() == [1, 2, None, 4]


def test_an_event_whose_sequence_is_known_is_a_repeat_without_it() -> None:
    scene = settled()
    scene.pushes(event(3, at=0, id="x"))

    assert scene.pushes(event(None, id="x")) == [Outcome.DUPLICATE]
    scene.commits()
    assert scene.pushes(event(None, id="x")) == [Outcome.DUPLICATE]


def test_what_is_held_without_sequence_gives_way_to_history_that_has_it() -> None:
    scene = Scene()
    scene.connect(latest=2)

    assert scene.pushes(event(None, id="id-2"), event(None, id="id-2")) == [Outcome.HELD, Outcome.DUPLICATE]
    scene.answers(*events([1, 2]))

    assert scene.published() == [1, 2]


def test_what_history_does_not_have_is_published_when_live() -> None:
    scene = Scene()
    scene.connect(latest=1)
    scene.pushes(event(None, id="x"))

    scene.answers(event(1))

    assert scene.published() == [1, None]


def test_what_has_no_sequence_stands_behind_its_predecessor_in_a_page() -> None:
    scene = Scene()
    scene.connect(latest=2)

    scene.answers(event(None, id="x"), event(1), event(None, id="y"), event(2))

    assert [item.content.id for item in scene.commits()] == ["x", "id-1", "y", "id-2"]  # type: ignore[union-attr]


def test_a_flow_with_sequences_does_not_push_out_what_has_none() -> None:
    scene = live(event(1), latest=1, identities=10)
    scene.pushes(event(None, id="x"))
    scene.pushes(*events(range(2, 100), at=0))
    scene.commits()

    assert scene.pushes(event(None, id="x")) == [Outcome.DUPLICATE]
    assert len(scene.checkpoint.identities) == 10 * DIGEST_BYTES


def test_an_identity_that_is_seen_again_is_kept_longer() -> None:
    scene = live(event(1), latest=1, unsequenced=3)
    for name in "abc":
        scene.pushes(event(None, id=name))
    scene.commits()

    scene.pushes(event(None, id="a"))
    scene.pushes(event(None, id="d"))
    scene.commits()

    assert scene.pushes(event(None, id="a"), event(None, id="b")) == [Outcome.DUPLICATE, Outcome.QUEUED]


def test_one_without_sequence_before_the_anchor_is_queued_before_verified() -> None:
    """Else a crash between the two would lose it: history is read from the anchor on."""
    scene = Scene(Checkpoint(verified=5))
    scene.connect(latest=7)

    scene.answers(event(None, id="x"), token="a")
    scene.answers(*events([6, 7]))

    assert [item.content.id for item in scene.commits(messages=1)] == ["x", "id-6", "id-7"]  # type: ignore[union-attr]
    assert [batch.checkpoint.count(b'"verified":5') for batch in scene.batches] == [1, 1, 0]


def test_dead_letters_are_published_like_events() -> None:
    scene = live(event(1), letter(2), letter(None), latest=2)

    scene.pushes(letter(3, id="l-3"), letter(3, id="l-3"))
    for at in (0, 1, 32, 63, 94):
        assert scene.published() == [1, 2, None]
        scene.audits(event(1), letter(2), letter(None), latest=2, at=at)
        while scene.asks() is not None:
            scene.answers()

    assert scene.published() == [1, 2, None, 3]


def test_a_dead_letter_at_the_end_is_not_final_before_what_follows_is() -> None:
    scene = live(event(1), letter(2), latest=2)
    assert scene.checkpoint.verified == 1

    scene.audits(event(1), letter(2), event(3, at=0), latest=3, at=100)
    scene.commits()

    assert scene.checkpoint.verified == 3


def test_a_history_of_dead_letters_is_final_a_grace_after_it_was_seen() -> None:
    scene = live(letter(1), letter(2), latest=2, grace=30)
    assert scene.checkpoint.verified == 0

    scene.audits(letter(1), latest=2, at=31)
    scene.audits(letter(1), latest=2, at=62)
    scene.answers(letter(1), letter(2))
    scene.commits()

    assert scene.checkpoint.verified == 2


# The audit -------------------------------------------------------------------------------------------------


def test_the_audit_finds_what_was_never_pushed_and_marks_it_late() -> None:
    scene = settled()
    scene.pushes(event(5, at=0))
    scene.waits(1)

    scene.audits(event(1), event(2, at=0), event(4, at=0), event(5, at=0), latest=5, at=100)

    assert scene.published() == [1, 2, 5, 4]
    assert scene.late() == [4]
    assert scene.checkpoint.verified == 2, "3 may still come into view"
    scene.audits(event(2, at=0), event(4, at=0), event(5, at=0), latest=5, at=131)
    assert scene.published() == [1, 2, 5, 4]
    assert scene.checkpoint.verified == 5
    assert scene.checkpoint.settled == ()


def test_a_page_with_room_for_the_anchor_alone_does_not_end_an_audit() -> None:
    scene = settled()
    scene.session.on_latest(3, clock(100))
    scene.session.history.audit()
    first = scene.asks()

    assert scene.answers(event(1), is_full=True) is False
    assert (first, scene.asks()) == (PageRequest(0), PageRequest(1))
    assert scene.answers(event(2, at=0), is_full=True) is False
    assert scene.answers(event(3, at=0), is_full=True) is False
    assert scene.answers() is True

    assert scene.published() == [1, 2, 3]


def test_a_hub_that_gives_nothing_new_is_not_asked_for_ever() -> None:
    scene = settled()
    scene.session.on_latest(3, clock(100))
    scene.session.history.audit()

    scene.answers(event(1), is_full=True)

    assert scene.answers(event(1), is_full=True) is True
    assert scene.asks() is None


def test_the_audit_leaves_alone_what_may_still_be_pushed() -> None:
    scene = settled()

    assert scene.audits(event(1), event(2, at=0), event(3, at=90), latest=3, at=100) is True

    assert scene.published() == [1, 2]
    assert scene.asks() is None
    scene.pushes(event(3, at=90))
    assert scene.published() == [1, 2, 3]
    assert scene.late() == []


def test_what_the_audit_finds_above_everything_published_is_not_late() -> None:
    scene = settled()

    scene.audits(event(1), event(2, at=0), event(3, at=0), latest=3, at=100)

    assert scene.published() == [1, 2, 3]
    assert scene.late() == []


def test_the_audit_counts_by_the_hubs_clock() -> None:
    scene = settled()
    scene.now += 10**6

    scene.audits(event(1), event(2, at=0), event(3, at=0), latest=3, at=1)

    assert scene.published() == [1, 2]


def test_pushes_that_are_held_are_queued_before_verified_passes_them() -> None:
    scene = settled()
    scene.pushes(event(4, at=0), event(6, at=0))

    scene.session.on_latest(6, clock(60))
    scene.audits(event(1), event(2, at=0), event(6, at=0), latest=6, at=100)
    scene.commits(messages=1)

    assert scene.published() == [1, 2, 4, 6]
    verified = [batch.checkpoint.split(b",")[1] for batch in scene.batches]
    assert verified[-2:] == [b'"verified":1', b'"verified":6']


def test_a_push_between_two_pages_of_an_audit_is_published_once() -> None:
    scene = settled()
    scene.session.on_latest(4, clock(100))
    scene.session.history.audit()
    scene.answers(event(1), event(2, at=0), token="a")
    scene.pushes(event(3, at=0))

    scene.answers(event(3, at=0), event(4, at=0))
    scene.pushes(event(4, at=0))

    assert scene.published() == [1, 2, 3, 4]


def test_an_audit_is_over_when_the_connection_drops() -> None:
    scene = settled()
    scene.session.on_latest(4, clock(100))
    scene.session.history.audit()

    scene.session.on_disconnected()
    scene.session.history.audit()

    assert scene.asks() is None
    scene.connect(latest=4, at=100)
    assert scene.asks() == PageRequest(0)


def test_an_audit_sees_what_came_without_a_sequence_after_the_latest() -> None:
    scene = live(event(1), latest=1)

    scene.audits(event(1), event(None, id="x"), latest=1, at=100)

    assert scene.published() == [1, None]


# No room ---------------------------------------------------------------------------------------------------


def test_a_push_without_room_is_let_go_and_history_gives_it_again() -> None:
    scene = live(event(1), latest=1, buffer_bytes=3000)
    scene.pushes(*events([2, 3, 4, 5, 6, 7], at=0))

    assert scene.pushes(event(8, at=0)) == [Outcome.OVERFLOW]
    assert scene.session.state is State.CATCHING_UP
    assert scene.session.counts.dropped_pushes == 1
    scene.session.on_latest(8, clock(0))
    assert scene.asks() is None  # no room for a page either
    scene.commits()
    scene.session.on_latest(8, clock(0))
    scene.answers(*events([1, 2, 3, 4, 5, 6, 7, 8], at=0))

    assert scene.published() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert scene.session.state is State.LIVE
    assert scene.late() == []


def test_what_is_queued_is_never_let_go() -> None:
    scene = live(event(1), latest=1, buffer_bytes=3000)
    scene.pushes(event(2, at=0), event(None, id="x"), event(None, id="y"))
    scene.pushes(*events(range(3, 20), at=0))

    published = scene.published()

    assert published[:4] == [1, 2, None, None]


def test_pushes_that_fill_the_buffer_while_history_is_paged_do_not_stop_it() -> None:
    scene = Scene(buffer_bytes=3000)
    scene.connect(latest=2)
    scene.commits()

    outcomes = scene.pushes(*events(range(10, 30), at=0))

    assert Outcome.OVERFLOW in outcomes
    assert scene.asks() == PageRequest(0)


def test_live_waits_until_history_has_given_again_what_was_let_go() -> None:
    scene = Scene(buffer_bytes=3000)
    scene.connect(latest=2)
    scene.pushes(*events(range(3, 10), at=0))
    highest = max(number for number in range(3, 10))
    scene.answers(*events([1, 2]))
    assert scene.session.state is State.CATCHING_UP

    scene.answers(*events(range(3, highest + 1), at=0))

    assert scene.published() == list(range(1, 10))
    assert scene.session.state is State.LIVE


def test_what_has_no_sequence_makes_the_others_go() -> None:
    scene = Scene(buffer_bytes=3000)
    scene.connect(latest=2)
    scene.pushes(*events(range(3, 9), at=0))

    outcomes = scene.pushes(*[event(None, id=f"x-{number}") for number in range(3)])

    assert outcomes == [Outcome.HELD] * 3
    assert scene.session.counts.dropped_pushes == 6


def test_even_what_has_no_sequence_is_let_go_at_twice_the_buffer_and_told() -> None:
    scene = Scene(buffer_bytes=3000)
    scene.connect(latest=2)

    outcomes = scene.pushes(*[event(None, id=f"x-{number}") for number in range(40)])

    assert outcomes[-1] is Outcome.OVERFLOW
    assert scene.session.queued_bytes < 3 * 3000
    assert scene.session.counts.dropped_pushes == outcomes.count(Outcome.OVERFLOW)


def test_a_push_may_be_refused_from_outside() -> None:
    scene = settled()

    assert scene.session.on_push(event(3, at=0), scene.now, room=False) is Outcome.OVERFLOW
    assert scene.session.state is State.CATCHING_UP


def test_pages_wait_until_half_of_the_buffer_is_taken() -> None:
    scene = Scene(buffer_bytes=5300)
    scene.connect(latest=99)
    scene.answers(*events(range(1, 12)), token="a")
    scene.session.take(1, 10**6)  # the first checkpoint

    scene.session.take(3, 10**6)
    assert scene.asks() is None
    scene.session.take(3, 10**6)
    assert scene.asks() == PageRequest(0, "a")


def test_after_a_long_wait_for_room_the_anchor_is_checked_again() -> None:
    scene = Scene(buffer_bytes=5000, grace=30)
    scene.connect(latest=99)
    scene.answers(*events(range(1, 12)), token="a")
    scene.commits()

    assert scene.session.wants_latest
    scene.session.on_latest(99, clock(10))
    assert scene.asks() == PageRequest(0, "a")

    scene.answers(*events(range(12, 24)), token="b")
    scene.commits()
    scene.session.on_latest(99, clock(100))
    assert scene.asks() == PageRequest(22)


# Without EventId, too -------------------------------------------------------------------------------------


def nameless(sequence: int | None, *, id: str | None, at: float = OLD) -> Event:  # noqa: A002 - its name
    """Return one event as one sighting has it: with or without EventId and EventSeqId."""
    known = b'{"EventId":%s,"EventSeqId":%s,' % (
        b"null" if id is None else f'"{id}"'.encode(),
        b"null" if sequence is None else str(sequence).encode(),
    )
    return event(sequence, id=id, at=at, body=known + f'"EventTime":"{clock(at)}"}}'.encode())


def test_what_was_pushed_without_one_id_is_known_when_history_shows_both() -> None:
    scene = live(event(1), latest=1)
    scene.pushes(nameless(None, id=None, at=-100), nameless(None, id=None, at=-99))
    assert scene.published() == [1, None, None]

    scene.audits(event(1), nameless(2, id="b", at=-100), nameless(3, id="c", at=-99), latest=3)

    assert scene.published() == [1, None, None]
    assert scene.checkpoint.verified == 3


def test_what_history_showed_with_both_ids_is_known_when_pushed_without() -> None:
    scene = live(event(1), latest=1)
    scene.pushes(nameless(None, id=None, at=-100))
    scene.audits(event(1), nameless(2, id="b", at=-100), nameless(3, id="c", at=-99), latest=3)
    assert scene.published() == [1, None, 3]

    assert scene.pushes(nameless(None, id=None, at=-99)) == [Outcome.DUPLICATE]


def test_more_without_a_sequence_than_can_be_remembered_is_counted() -> None:
    scene = live(event(1), latest=1, unsequenced=3)
    scene.pushes(*(event(None, id=name) for name in "abcde"))
    scene.commits()

    assert scene.session.counts.forgotten_identities == 2


def test_at_its_deadline_it_has_waited_enough_however_that_is_rounded() -> None:
    for now in (16.035886480903635, 0.1 + 0.2, 1e9 / 3, *(number / 7 for number in range(1, 200))):
        scene = live(*events([1, 2]), latest=2)
        scene.now = now
        scene.pushes(event(3), event(5))
        assert scene.session.deadline is not None
        scene.session.expire(scene.session.deadline)

        assert scene.session.deadline is None, now
        assert scene.published() == [1, 2, 3, 5]
