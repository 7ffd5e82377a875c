"""What is beside the log on JetStream: accounts, leases, records of changes; none may be kept so that it is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from gateway.broker.jetstream.audit import JetStreamAudit
from gateway.broker.jetstream.connection import Connection
from gateway.broker.jetstream.ownership import JetStreamOwnership
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.jetstream.topics import Topics
from gateway.errors import ConfigurationError
from tests.support.rigs import NatsRig


async def _prepare_control(connection: Connection, topics: Topics, replicas: int) -> None:
    await JetStreamRegistry(connection, topics).prepare(replicas=replicas, create=True)


async def _prepare_ownership(connection: Connection, topics: Topics, replicas: int) -> None:
    await JetStreamOwnership(connection, topics).prepare(replicas=replicas, create=True)


async def _prepare_audit(connection: Connection, topics: Topics, replicas: int) -> None:
    await JetStreamAudit(connection, topics).prepare(replicas=replicas, create=True, retention=3600)


STREAMS: Final[dict[str, Callable[[Connection, Topics, int], Awaitable[None]]]] = {
    "control": _prepare_control,
    "ownership": _prepare_ownership,
    "audit": _prepare_audit,
}
WITHOUT_BATCHES: Final = {"allow_atomic": False, "allow_msg_ttl": False}
EVERY: Final[list[tuple[dict[str, Any], str]]] = [
    ({"retention": "interest"}, "retention is interest"),
    ({"retention": "workqueue"}, "retention is workqueue"),
    ({"sources": [{"name": "OTHER"}]}, "sources is set"),
    ({"subject_transform": {"src": ">", "dest": "elsewhere.>"}}, "subject_transform is set"),
    ({"no_ack": True, "allow_atomic": False}, "no_ack is set"),
    ({"max_msg_size": 100}, "max_msg_size is 100"),
    ({"subjects": ["{prefix}.elsewhere.>"]}, "subjects lack"),
    ({"mirror": {"name": "OTHER"}, "subjects": [], **WITHOUT_BATCHES}, "mirror is set"),
    ({"allow_msg_counter": True, "max_msgs_per_subject": -1, **WITHOUT_BATCHES}, "allow_msg_counter is set"),
]
SOME: Final[list[tuple[str, dict[str, Any], str]]] = [
    ("control", {"storage": "memory"}, "storage is memory"),
    ("control", {"persist_mode": "async", "allow_atomic": False}, "persist_mode is async"),
    ("control", {"discard": "new", "discard_new_per_subject": True}, "discard_new_per_subject is set"),
    ("control", {"max_msgs_per_subject": -1}, "max_msgs_per_subject is not set"),
    ("control", {"subject_delete_marker_ttl": 10**9}, "subject_delete_marker_ttl is set"),
    ("ownership", {"subject_delete_marker_ttl": 10**9, "allow_msg_ttl": True}, "subject_delete_marker_ttl is set"),
    ("ownership", {"deny_delete": True}, "deny_delete is set"),
    ("ownership", {"discard": "new", "discard_new_per_subject": True}, "discard_new_per_subject is set"),
    ("ownership", {"max_msgs": 5}, "max_msgs is 5"),
    ("ownership", {"max_bytes": 10_000}, "max_bytes is 10000"),
    ("audit", {"storage": "memory"}, "storage is memory"),
    ("audit", {"persist_mode": "async", "allow_atomic": False}, "persist_mode is async"),
]


def _name(topics: Topics, which: str) -> str:
    return {"control": topics.control, "ownership": topics.ownership, "audit": topics.audit_stream}[which]


async def _change(nats: NatsRig, which: str, change: dict[str, Any]) -> None:
    """Make the stream again as the gateway makes it, but for a change."""
    link, name = nats.connection.link, _name(nats.topics, which)
    await STREAMS[which](nats.connection, nats.topics, 1)
    config = (await link.api(f"STREAM.INFO.{name}"))["config"]
    await link.api(f"STREAM.DELETE.{name}")
    subjects = [one.format(prefix=nats.topics.prefix) for one in change.get("subjects", config["subjects"])]
    await link.api(f"STREAM.CREATE.{name}", config | change | {"subjects": subjects})


@pytest.mark.parametrize("which", STREAMS)
async def test_a_stream_beside_the_log_that_would_break_a_promise_is_refused(nats: NatsRig, which: str) -> None:
    cases = [*EVERY, *((change, message) for stream, change, message in SOME if stream == which)]
    for change, message in cases:
        await _change(nats, which, change)
        with pytest.raises(ConfigurationError, match=message):
            await STREAMS[which](nats.connection, nats.topics, 1)
        await nats.connection.link.api(f"STREAM.DELETE.{_name(nats.topics, which)}")


@pytest.mark.parametrize("which", STREAMS)
async def test_a_stream_beside_the_log_with_too_few_copies_is_refused(nats: NatsRig, which: str) -> None:
    await STREAMS[which](nats.connection, nats.topics, 1)
    with pytest.raises(ConfigurationError, match="num_replicas is 1, not 3: too few servers may fail"):
        await STREAMS[which](nats.connection, nats.topics, 3)


@pytest.mark.parametrize(
    ("which", "change"),
    [
        ("control", {"compression": "s2"}),
        ("control", {"max_msgs_per_subject": 5}),
        ("ownership", {"storage": "memory"}),
        ("audit", {"compression": "s2"}),
    ],
)
async def test_a_harmless_difference_of_a_stream_beside_the_log_is_let_be(
    nats: NatsRig, which: str, change: dict[str, Any]
) -> None:
    await _change(nats, which, change)
    await STREAMS[which](nats.connection, nats.topics, 1)
