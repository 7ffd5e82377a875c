"""What a process remembers of what it wrote last, to find what a partition lost: enough, and no more than that."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import pytest
import structlog
from aiokafka.structs import TopicPartition

from gateway.broker.kafka.ends import BatchPart, PartitionEnds, RecordBatch, numbered, parts_of
from gateway.broker.ports import Lost
from gateway.errors import Unavailable
from gateway.events.event import DeadLetter, Event, Notification
from gateway.publication import dead_letter_message, event_message, notification_message

OWN = TopicPartition("checkpoints", 0)
EVENTS, OTHERS = TopicPartition("order-update.v1", 3), TopicPartition("position-update.v1", 3)


def part(account: str, *sequences: int) -> BatchPart:
    return BatchPart(account, b"%d" % sequences[0], b"%d" % sequences[-1], 1, array("Q", sequences))


def wrote(ends: PartitionEnds, *batches: tuple[int, list[BatchPart]]) -> None:
    for place, parts in batches:
        ends.on_placed([RecordBatch(EVENTS, place, sum(len(one.sequences) for one in parts), parts)])
        ends.on_stored()


def there(account: str, sequences: Iterable[int]) -> set[tuple[str, Lost]]:
    return {(account, Lost(1, sequence)) for sequence in sequences}


def test_what_is_remembered_does_not_grow_with_accounts_and_batches() -> None:
    ends = PartitionEnds(0, OWN)
    for place in range(50):
        wrote(ends, (300 * place, [part(f"account-{number}", 2 * place, 2 * place + 1) for number in range(100)]))
    assert 800 < len(ends._recent) < 1000
    assert ends._bytes <= 256 * 1024
    assert ends._events == 2 * len(ends._recent)
    for place in range(50, 60):
        wrote(ends, (10_000 * place, [part("account", *range(1000 * place, 1000 * place + 1000))]))
    assert len(ends._recent) == 5
    assert ends._events == 5000
    ends.lose(EVENTS, 0, 0, set(), now=0)
    assert (ends._events, ends._bytes, len(ends._recent)) == (0, 0, 0)


def test_a_partition_that_ends_with_our_record_lost_its_marker() -> None:
    ends = PartitionEnds(0, OWN)
    wrote(ends, (0, [part("alpha", 1, 2)]))
    assert not ends.compare({EVENTS: 2}, is_marked=False)
    assert ends.compare({EVENTS: 3}, is_marked=False)
    assert ends.compare({EVENTS: 3})
    assert ends.short({EVENTS: 3}) == {}
    assert ends.short({EVENTS: 2}) == {EVENTS: 2}
    with pytest.raises(Unavailable, match="went back to 1"):
        ends.compare({EVENTS: 1}, is_marked=False)
    with pytest.raises(Unavailable, match="went back to 2"):
        ends.on_placed([RecordBatch(EVENTS, 2, 1)])
    with pytest.raises(Unavailable, match="went back to 2"):
        ends.compare({EVENTS: 2})
    ends.lose(EVENTS, 1, 0, set(), now=2)
    assert ends.lost == {"alpha": {Lost(1, 1), Lost(1, 2)}}


def test_each_account_is_told_once_of_its_first_and_last_key_that_is_lost() -> None:
    ends = PartitionEnds(0, OWN)
    wrote(ends, (0, [part("alpha", 1, 2)]), (3, [part("alpha", 3, 4), part("beta", 1)]), (7, [part("alpha", 5, 6)]))
    with pytest.raises(Unavailable, match="went back to 3"):
        ends.compare({EVENTS: 3})
    with structlog.testing.capture_logs() as logs:
        ends.lose(EVENTS, 3, 0, there("alpha", [1, 2]), now=3)
    (entry,) = logs
    assert (entry["log_level"], entry["keys"]) == ("error", ["alpha: 3 to 6", "beta: 1 to 1"])
    assert not entry["maybe_earlier_ones"]
    assert ends.lost == {"alpha": {Lost(1, number) for number in (3, 4, 5, 6)}, "beta": {Lost(1, 1)}}
    ends.compare({EVENTS: 3})
    ends.knows(["alpha", "gamma"])
    assert ends.lost.keys() == {"beta"}


def test_where_others_wrote_since_what_is_there_tells_what_is_lost() -> None:
    """Another shard of the partition came first, so it ends now behind what was lost."""
    ends = PartitionEnds(0, OWN)
    wrote(ends, (0, [part("alpha", 1, 2)]), (3, [part("alpha", 3, 4)]), (6, [part("alpha", 5)]))
    ends.lose(EVENTS, 5, 0, there("alpha", [1, 2]) | there("gamma", [3, 4]), now=5)
    assert ends.lost == {"alpha": {Lost(1, number) for number in (3, 4, 5)}}


def test_a_partition_that_is_doubted_may_have_everything() -> None:
    ends = PartitionEnds(0, OWN)
    wrote(ends, (0, [part("alpha", 1, 2)]))
    ends.doubt(EVENTS)
    assert ends.short({EVENTS: 3}) == {EVENTS: 3}
    with structlog.testing.capture_logs() as logs:
        ends.lose(EVENTS, 3, 0, there("alpha", [1, 2]), now=3)
    assert (logs, ends.lost, ends.short({EVENTS: 3})) == ([], {}, {})


def test_a_copy_of_the_partition_stands_lower_and_is_looked_for_there() -> None:
    """It has no markers, and nothing that had grown too old; others may have written behind it."""
    ends = PartitionEnds(0, OWN)
    wrote(ends, (50_000, [part("alpha", *range(1, 101))]), (50_102, [part("alpha", *range(101, 201))]))
    assert ends.first(EVENTS, 60_000) == 50_000
    assert 38_000 < ends.first(EVENTS, 40_000) <= 39_798
    assert ends.first(EVENTS, 202) == 0


def test_of_a_copy_that_has_everything_nothing_is_told_to_be_lost() -> None:
    ends = PartitionEnds(0, OWN)
    wrote(ends, (100, [part("alpha", 1, 2)]), (103, [part("alpha", 3)]), (105, [part("beta", 1)]))
    with structlog.testing.capture_logs() as logs:
        ends.lose(EVENTS, 4, 0, there("alpha", [1, 2, 3]) | there("beta", [1]), now=4)
    assert (ends.lost, [entry["keys"] for entry in logs]) == ({}, [[]])
    assert ends.short({EVENTS: 4}) == {}


def test_what_others_wrote_is_not_kept_in_mind_while_it_is_looked_at() -> None:
    """It may be millions: of all shards of the partition since this process wrote there last."""
    ends = PartitionEnds(0, OWN)
    wrote(ends, (0, [part("alpha", 1, 2)]), (3, [part("beta", 3)]))
    assert ends.sought(EVENTS) == there("alpha", [1, 2]) | there("beta", [3])
    ends.lose(EVENTS, 3, 0, there("alpha", [1, 2]), now=3)
    assert ends.sought(EVENTS) == there("alpha", [1, 2]) | there("beta", [3])
    assert ends.sought(OWN) == there("beta", [3])


def test_what_left_with_its_age_is_not_lost() -> None:
    ends = PartitionEnds(0, OWN)
    wrote(ends, (0, [part("alpha", 1, 2)]), (3, [part("alpha", 3)]), (5, [part("alpha", 4)]))
    ends.lose(EVENTS, 5, 3, there("alpha", [3]), now=5)
    assert ends.lost == {"alpha": {Lost(1, 4)}}


@pytest.mark.parametrize("whose", ["ours, of which nobody knows whether it is stored", "another process's"])
def test_what_was_published_again_since_is_lost_no_more(whose: str) -> None:
    """No clean answer came to a commit since the loss was found, so this process still has it in mind."""
    ends = PartitionEnds(0, OWN)
    wrote(ends, (0, [part("alpha", 1, 2)]), (3, [part("alpha", 3, 4)]))
    ends.lose(EVENTS, 3, 0, there("alpha", [1, 2]), now=3)
    if whose.startswith("ours"):
        wrote(ends, (3, [part("alpha", 3)]))
    ends.begin_again()
    assert ends.short({EVENTS: 6}) == {EVENTS: 6}
    assert ends.first(EVENTS, 6) <= 3
    with structlog.testing.capture_logs() as logs:
        ends.lose(EVENTS, 6, 0, there("alpha", [1, 2, 3]), now=6)
    assert (logs, ends.lost) == ([], {"alpha": {Lost(1, 4)}})
    ends.lose(EVENTS, 6, 0, there("alpha", [1, 2, 3, 4]), now=6)
    assert (ends.lost, ends.short({EVENTS: 6})) == ({}, {})


def test_what_is_older_than_what_is_remembered_may_be_lost_too() -> None:
    ends = PartitionEnds(0, OWN)
    wrote(ends, (100, [part("alpha", 7)]))
    with structlog.testing.capture_logs() as logs:
        ends.lose(EVENTS, 90, 0, set(), now=90)
    assert logs[0]["maybe_earlier_ones"]


def test_what_was_not_stored_is_not_remembered() -> None:
    ends = PartitionEnds(0, OWN)
    wrote(ends, (0, [part("alpha", 1)]))
    ends.on_placed([RecordBatch(EVENTS, 2, 1, [part("alpha", 2)])])
    ends.begin_again()
    wrote(ends, (5, [part("alpha", 2)]))
    ends.lose(EVENTS, 2, 0, there("alpha", [1]), now=2)
    assert ends.lost == {"alpha": {Lost(1, 2)}}


def test_a_number_is_of_an_event_that_is_published_for_the_first_time() -> None:
    event = Event("alpha", "order-update", 7, "id-7", "2026-11-29T12:00:00Z", None, b"{}")
    assert numbered(event_message(event, incarnation=2)) == Lost(2, 7)
    assert numbered(event_message(event, late=True)) == Lost(1, 7)
    assert numbered(event_message(event, replay="replay-1")) is None
    letter = DeadLetter("alpha", "invalid-payload", "", "", b"raw", 7, None)
    assert numbered(dead_letter_message(letter)) is None
    assert numbered(notification_message(Notification("alpha", "gap", {}))) is None
    again = event_message(event, replay="replay-1")
    (one, other) = parts_of([event_message(event), again, event_message(event), dead_letter_message(letter)])
    assert list(one.events) == [Lost(1, 7), Lost(1, 7)]
    assert (other.account, other.first, list(other.events)) == ("alpha", b"7", [])


def of_two_topics() -> PartitionEnds:
    """Return the ends of two topics that have two records and a marker each."""
    ends = PartitionEnds(0, OWN)
    ends.on_placed([RecordBatch(EVENTS, 0, 2, [part("alpha", 1, 2)]), RecordBatch(OTHERS, 0, 2, [part("alpha", 3, 4)])])
    ends.on_stored()
    return ends


def test_a_commit_that_notices_one_loss_hides_no_other() -> None:
    """Both topics went back to 1; the records and the marker of the commit, which is aborted, stand behind that."""
    ends = of_two_topics()
    with pytest.raises(Unavailable):
        ends.on_placed(
            [RecordBatch(EVENTS, 1, 3, [part("alpha", 5, 6)]), RecordBatch(OTHERS, 1, 3, [part("alpha", 7, 8)])]
        )
    assert ends.short({EVENTS: 5, OTHERS: 5}) == {EVENTS: 1, OTHERS: 1}


def test_a_look_that_notices_one_loss_remembers_the_other() -> None:
    ends = of_two_topics()
    with pytest.raises(Unavailable):
        ends.compare({EVENTS: 1, OTHERS: 1})
    assert ends.short({EVENTS: 1, OTHERS: 11}) == {EVENTS: 1, OTHERS: 1}  # other replicas may write meanwhile
