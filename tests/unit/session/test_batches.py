from __future__ import annotations

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from gateway.events.event import Notification
from gateway.session.checkpoint import Checkpoint, decode_checkpoint
from gateway.session.session import Session
from gateway.session.types import Outcome, Page, SessionLimits, State
from tests.unit.session.scenes import Scene, clock, event, events, letter, live

KIBI = 1024


def test_there_is_no_batch_where_nothing_waits() -> None:
    assert Scene(Checkpoint(verified=1)).session.take(10, 10) is None


def test_a_batch_holds_at_most_as_many_messages_as_asked_for() -> None:
    scene = live(event(1), latest=1)
    scene.pushes(*events(range(2, 12), at=0))

    sizes = []
    while (batch := scene.session.take(4, 10**6)) is not None:
        sizes.append(len(batch.items))

    assert sizes == [4, 4, 2]


def test_a_batch_holds_about_the_bytes_asked_for_and_at_least_one_message() -> None:
    scene = live(event(1), latest=1)
    scene.pushes(*(event(number, at=0, body=b"x" * 1000) for number in range(2, 8)))

    assert [len(scene.session.take(100, size).items) for size in (1, 3100, 10**6)] == [1, 2, 3]  # type: ignore[union-attr]


def test_a_checkpoint_speaks_of_no_more_than_the_batches_up_to_its_own() -> None:
    scene = Scene()
    scene.connect(latest=4)
    scene.answers(*events([1, 2, 3, 4]))

    seen = []
    while (batch := scene.session.take(1, 10**6)) is not None:
        checkpoint = decode_checkpoint(batch.checkpoint)
        seen.append((len(batch.items), checkpoint.verified, checkpoint.settled))

    assert seen == [(0, 0, ()), (1, 0, ((1, 1),)), (1, 0, ((1, 2),)), (1, 0, ((1, 3),)), (1, 4, ())]


def test_bytes_that_wait_are_counted_down_to_nothing() -> None:
    scene = live(event(1), latest=1)
    scene.session.subscribe([1])
    scene.session.on_latest(1, clock(0))
    scene.session.on_latest(1, clock(0))
    scene.pushes(event(2, at=0), event(9, at=0), event(None, id="x"), letter(None), event(3, strategy=9, at=0))
    assert scene.session.queued_bytes > 0

    scene.waits(1)
    scene.commits()

    assert scene.session.queued_bytes == 0


def test_an_account_with_sparse_numbers_stays_live_whatever_its_events() -> None:
    """The checkpoint has room for some eighty of them, and verified follows."""
    scene = live(event(1), latest=1, interval_bytes=600)
    scene.pushes(event(2))
    scene.audits(event(1), event(2), latest=2, at=-40)
    scene.commits()
    anchor, rounds = 2, 30
    for number in range(rounds):
        now, sparse = 100.0 * number, range(anchor + 2, anchor + 22, 2)
        last = sparse[-1]
        scene.pushes(*events(sparse, at=now))
        scene.waits(1)
        assert scene.session.state is State.LIVE, f"crowded after {10 * number} events"

        for later in (0, 40):
            scene.audits(event(anchor), *events(sparse, at=now), latest=last, at=now + later)
        scene.commits()
        assert (scene.checkpoint.verified, scene.checkpoint.settled) == (last, ())
        anchor = last
    assert len(scene.items) == 2 + 10 * rounds
    assert scene.late() == []


def test_the_highest_settled_sequence_is_told() -> None:
    scene = live(*events([1, 2]), latest=2)
    scene.pushes(event(3, at=0))

    assert scene.session.highest == 2
    scene.commits()
    assert scene.session.highest == 3


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_crash_after_any_batch_loses_and_doubles_nothing(data: st.DataObject) -> None:
    """Whatever is pushed, however it is cut into batches: what the checkpoint does not settle, it gives again."""
    numbers = st.lists(st.integers(2, 30), max_size=30)
    history = [event(number, at=data.draw(st.sampled_from([-3600.0, 0.0]))) for number in range(1, 31)]
    scene = Scene()
    scene.connect(latest=1)
    scene.answers(event(1))
    for number in data.draw(numbers):
        scene.session.on_push(history[number - 1], scene.now)
        if data.draw(st.booleans()):
            scene.waits(0.06)
    published: list[int | None] = []
    stored = None
    for _ in range(data.draw(st.integers(0, 10))):
        batch = scene.session.take(data.draw(st.integers(1, 5)), data.draw(st.sampled_from([1, 2000, 10**6])))
        if batch is None:
            break
        stored = batch.checkpoint
        published += [item.content.sequence for item in batch.items if not isinstance(item.content, Notification)]

    other = Scene(None if stored is None else decode_checkpoint(stored))
    other.connect(latest=30)
    for _ in range(6):
        request = other.asks()
        if request is None or other.session.state is State.LIVE:
            break
        page = [one for one in history if (one.sequence or 0) > request.since]
        other.session.history.on_page(Page(request, page, None), 0.0)

    assert sorted(published + other.published()) == list(range(1, 31))  # type: ignore[type-var]


# The size of a checkpoint ----------------------------------------------------------------------------------


def _settled_bytes(checkpoint: bytes) -> int:
    return len(msgspec.json.encode(msgspec.json.decode(checkpoint).get("settled", [])))


@pytest.mark.parametrize("step", [2, 1000, 10**6, 10**14])
def test_sparse_pushes_never_make_the_checkpoint_larger_than_its_limit(step: int) -> None:
    scene = live(event(1), latest=1)
    scene.pushes(event(2, at=0))
    sequence, outcomes = 2, []
    while Outcome.OVERFLOW not in outcomes:
        sequence += step
        outcomes += scene.pushes(event(sequence, at=0))
        if scene.session.wants_latest:
            scene.session.on_latest(sequence, clock(0))
        scene.waits(1)
    largest = max(len(batch.checkpoint) for batch in scene.batches) if scene.commits() else 0

    assert scene.session.state is State.CATCHING_UP
    assert 60 * KIBI < _settled_bytes(scene.batches[-1].checkpoint) <= 64 * KIBI
    assert largest < 128 * KIBI


def test_pushes_held_while_catching_up_keep_the_limit_when_they_are_queued() -> None:
    scene = Scene(buffer_bytes=10**9)
    scene.connect(latest=1)
    sequence = 1
    for _ in range(10_000):
        sequence += 10**12
        scene.pushes(event(sequence, at=0))

    scene.session.on_latest(sequence, clock(0))
    scene.answers(event(1), event(2 + 10**12, at=0), event(sequence, at=0))
    assert scene.session.state is State.LIVE
    scene.waits(1)
    scene.commits(messages=500)

    assert max(_settled_bytes(batch.checkpoint) for batch in scene.batches) <= 64 * KIBI


@pytest.mark.parametrize("page", [10, 1000])
def test_a_sparse_history_is_paged_within_the_limit_and_comes_to_its_end(page: int) -> None:
    """Old pages move verified with every event; young ones wait for their grace when the checkpoint is full."""
    step, count = 10**13, 6_000
    history = [event(1 + number * step, at=-3600 if number < 3_000 else 0) for number in range(count)]
    scene = Scene(grace=30)
    scene.connect(latest=history[-1].sequence or 0)
    seconds, asked = 0.0, 0
    while scene.session.state is not State.LIVE:
        if scene.session.wants_latest:
            scene.session.on_latest(history[-1].sequence or 0, clock(seconds))
        request = scene.asks()
        assert request is not None
        place = (request.since - 1) // step + 1 if request.since else 0
        place = int(request.token) if request.token else place
        token = str(place + page) if place + page < count else None
        if scene.session.history.on_page(Page(request, history[place : place + page], token), 0.0):
            seconds += 10
            scene.session.on_latest(history[-1].sequence or 0, clock(seconds))
        scene.commits(messages=100)
        asked += 1
        assert asked < 30 * count / page

    assert scene.published() == [one.sequence for one in history]
    assert max(_settled_bytes(batch.checkpoint) for batch in scene.batches) <= 64 * KIBI
    assert max(len(batch.checkpoint) for batch in scene.batches) < 128 * KIBI


def test_the_largest_checkpoint_that_can_be_is_below_128_kib() -> None:
    """Every ring full, every interval as long as can be, subscriptions and subject at their limits."""
    session = Session("acme", None, settings=SessionLimits())
    session.subscribe(range(10**6, 10**6 + 1500))
    session.on_connected("s" * 256)
    session.on_subscribed()
    session.on_latest(1, clock(0))
    session.history.on_page(Page(session.history.wants(), [event(1)], None), 0.0)  # type: ignore[arg-type]
    session.subscribe(range(2 * 10**6, 2 * 10**6 + 1500))
    for _ in range(2):
        session.on_latest(2, clock(0))
    for number in range(600):
        session.on_push(event(None, id=f"x-{number}"), 0.0)
    sequence = 2
    while session.on_push(event(sequence, at=0), 0.0) is not Outcome.OVERFLOW:
        if session.wants_latest:
            session.on_latest(sequence, clock(0))
        session.expire(1e9)
        sequence += 2**45
    largest = 0
    while (batch := session.take(1000, 10**9)) is not None:
        largest = len(batch.checkpoint)

    assert 90 * KIBI < largest < 128 * KIBI
