"""What is said to be lost with a deleted topic of Kafka: only events are published again."""

from __future__ import annotations

import pytest

from gateway.broker.kafka.topic_repair import lost_with
from gateway.broker.kafka.topics import Topics


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("p.order-update.v1", "its events: what this process wrote there last is published again, what is older"),
        ("p.dead-letter.v1", "its messages, which are lost"),
        ("p.notifications.v1", "its messages, which are lost"),
        ("p.replay.v1", "its messages, which are lost"),
        ("p.gateway.control", "paused accounts run again"),
        ("p.gateway.accounts", "the accounts, which are written again"),
        ("p.gateway.audit", "the record of who changed what, which is lost"),
    ],
)
def test_what_is_lost_with_a_topic(name: str, lost: str) -> None:
    topics = Topics("p", ("order-update", "dead-letter", "notifications", "replay"))
    assert name in {*topics.events, topics.control, topics.accounts, topics.audit}
    assert lost in lost_with(topics, name)
