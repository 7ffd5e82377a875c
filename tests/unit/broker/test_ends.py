"""What a writer remembers of what it wrote last, to say what a partition lost: enough of it, and no more than that."""

from __future__ import annotations

import structlog
from aiokafka.structs import TopicPartition

from gateway.broker.kafka.ends import Ends

OWN = TopicPartition("checkpoints", 0)
EVENTS = TopicPartition("order-update.v1", 3)


def test_what_is_remembered_does_not_grow_with_accounts_and_batches() -> None:
    ends = Ends(0, OWN)
    accounts = {f"account-{number}": (b"%d" % number, b"%d" % number) for number in range(300)}
    for place in range(50):
        ends.took([(EVENTS, place, accounts)])
    assert len(ends._recent) == 1000


def test_of_what_a_partition_lost_each_account_is_told_once_with_its_first_key_and_its_last() -> None:
    ends = Ends(0, OWN)
    ends.took([(EVENTS, 0, {"alpha": (b"1", b"2")})])
    ends.took([(EVENTS, 2, {"alpha": (b"3", b"4"), "beta": (b"1", b"1")})])
    ends.took([(EVENTS, 5, {"alpha": (b"5", b"6")})])
    with structlog.testing.capture_logs() as logs:
        ends.compare({EVENTS: 2})
    (entry,) = logs
    assert entry["keys"] == ["alpha: 3 to 6", "beta: 1 to 1"]
    assert not entry["maybe_earlier_ones"]
    with structlog.testing.capture_logs() as logs:
        ends.compare({EVENTS: 2})
    assert logs == []
