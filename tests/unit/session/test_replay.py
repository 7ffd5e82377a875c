"""What a replay finds in a page, and that what it says of its progress loses and repeats nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gateway.events.event import DeadLetter, Event
from gateway.session.replay_queue import Progress, ReplayQueue
from gateway.session.types import Content, OutgoingItem
from gateway.state import Destination, Phase, RecordUnreadable, Replay, decode_record, encode_record

ID = "0" * 32
MANY = 10**9


def event(sequence: int | None, name: str = "", *, kind: str = "order-update", strategy: int | None = 1) -> Event:
    time = f"2026-11-22T13:00:{(sequence or 0) % 60:02}.1234567Z"
    return Event("main", kind, sequence, name or f"id-{sequence}", time, strategy, b"{}")


def letter(sequence: int) -> DeadLetter:
    return DeadLetter("main", "unknown-kind", "?", "GetEventsSince", b"?", sequence)


def queue(progress: Progress | None = None, **wanted: Any) -> ReplayQueue:  # noqa: ANN401 - members of Replay
    replay = Replay(account="main", until=MANY, requested_at="", requested_by="", **wanted)
    made = ReplayQueue(ID, replay, progress or Progress())
    if progress is None:
        made.begin(0, "now")
    return made


def given(items: list[OutgoingItem]) -> list[int | str | None]:
    return [item.content.sequence or item.content.id for item in items]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [1, 2, 3, 4]),
        ({"kinds": ("error",)}, [2]),
        ({"kinds": ("dead-letter", "order-update")}, [1, 3, 4]),
        ({"strategies": (2,)}, [2, 3, 4]),  # what names no strategy comes along
        ({"begin": "2026-11-22T13:00:02.1234567Z"}, [2, 3]),  # the seventh digit counts
        ({"begin": "2026-11-22T13:00:02.1234568Z"}, [3]),
        ({"end": "2026-11-22T13:00:02.1234567Z"}, [1]),
    ],
)
def test_a_filter_lets_through_what_was_asked_for(wanted: dict[str, Any], found: list[int]) -> None:
    replay = queue(**wanted)
    page: list[Content] = [event(1), event(2, kind="error", strategy=None), event(3, strategy=2), letter(4)]
    assert replay.look(page, MANY, 100, MANY) == (4, False)
    assert given(replay.take(100, MANY)[0]) == found
    assert (replay.progress.position, replay.progress.read, replay.progress.published) == (4, 4, len(found))


def test_it_stops_where_the_range_ends() -> None:
    replay = queue()
    assert replay.look([event(1), event(None, "a"), event(5)], 3, 100, MANY) == (2, True)
    assert given(replay.take(100, MANY)[0]) == [1, "a"]
    replay.pass_to(3)
    assert replay.has_progress
    assert decode_record(Progress, replay.take(100, MANY)[1]).position == 3


@pytest.mark.parametrize(
    ("wanted", "topic"),
    [({}, "replay"), ({"destination": Destination.REPLAY}, "replay"), ({"destination": Destination.TOPICS}, None)],
    ids=["by default", "replay", "topics"],
)
def test_each_item_says_whether_it_goes_to_the_topic_of_replays(wanted: dict[str, Any], topic: str | None) -> None:
    replay = queue(**wanted)
    replay.look([event(1)], MANY, 100, MANY)
    (item,) = replay.take(100, MANY)[0]
    assert item.replay is not None
    assert (item.replay.replay, item.replay.topic) == (ID, topic)


def test_no_more_waits_than_there_is_room_for() -> None:
    replay = queue()
    page = [event(number) for number in range(1, 10)]
    assert replay.look(page, MANY, 4, MANY) == (4, False)
    assert given(replay.take(3, MANY)[0]) == [1, 2, 3]
    assert given(replay.take(3, MANY)[0]) == [4]
    assert replay.waiting == replay.waiting_bytes == 0


@pytest.mark.parametrize("seed", range(50))
def test_whoever_goes_on_from_any_progress_repeats_and_loses_nothing(seed: int) -> None:
    """It is taken apart at random, thrown away at random, and pages overlap, as the hub's do."""
    dice = random.Random(seed)
    history: list[Content] = []
    sequence = 0
    for number in range(120):
        if dice.random() < 0.3:
            history.append(event(None, f"nameless-{number}"))
        else:
            sequence += dice.randint(1, 3)
            history.append(event(sequence, kind=dice.choice(["order-update", "error"])))
    published: list[int | str | None] = []
    progress = None
    while True:
        replay = queue(progress, kinds=("order-update",))
        since = replay.seen or 0
        rest = after(history, since)
        page = rest[: dice.randint(1, 40)]
        looked, _ = replay.look(page, MANY, dice.randint(1, 10), MANY)
        last: bytes | None = None
        for _ in range(dice.randint(0, 3)):  # the others are thrown away
            items, last = replay.take(dice.randint(1, 5), MANY)
            published += given(items)
        if last is not None:
            progress = decode_record(Progress, last)
        if looked == len(rest) and not replay.has_progress:
            break
    wanted = [one.sequence or one.id for one in history if isinstance(one, Event) and one.kind == "order-update"]
    assert published == wanted


def after(history: list[Content], since: int) -> list[Content]:
    """Return what the hub has after `since`: also what has no sequence itself and comes behind it."""
    at = next((number for number, one in enumerate(history) if one.sequence == since), -1)
    return history[at + 1 :]


def test_progress_is_read_as_it_was_written_and_nothing_else_is() -> None:
    progress = Progress(phase=Phase.FAILED, origin=1, position=7, tail=bytes(8), read=6, published=5, detail="?")
    assert decode_record(Progress, encode_record(progress)) == progress
    for value in (b'{"version":1,"tail":"?"}', b'{"version":1,"phase":"sleeping"}', b"[" * 100_000):
        with pytest.raises(RecordUnreadable):
            decode_record(Progress, value)


def test_an_end_lets_go_what_waits() -> None:
    replay = queue()
    replay.look([event(1), event(2)], MANY, 100, MANY)
    replay.end(Phase.CANCELLED, None, "then")
    items, value = replay.take(100, MANY)
    assert items == []
    assert decode_record(Progress, value).phase is Phase.CANCELLED
