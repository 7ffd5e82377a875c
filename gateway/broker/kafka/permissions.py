"""What the gateway's user may not do with its topics and transactional ids, as the broker reports it.

The check writes nothing: the broker reports for each topic what the client may do (KIP-430). It does not for a
transactional id. So the check asks it to end a transaction of a producer that does not exist, since the broker looks at
the permission before it looks for the producer.
"""

from __future__ import annotations

from typing import Any, Final

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.transaction import EndTxnRequest
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from gateway.broker.kafka.connection import Connection
from gateway.broker.kafka.topics import Topics

_OPERATIONS: Final = {"Read": 1 << 3, "Write": 1 << 4}
_NOBODY: Final = (1 << 63) - 1
"""The id of no producer: brokers give them from 0 on."""
_ID_DENIED: Final = 53


class _Answer(Response):  # type: ignore[misc]  # it has no annotations
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", String()), ("port", Int32), ("rack", String()))),
        ("cluster_id", String()),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String()),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("operations", Int32),
            ),
        ),
        ("cluster_operations", Int32),
    )


class _Question(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        ("topics", Array(String())),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_operations", Boolean),
        ("include_topic_operations", Boolean),
    )


class _AuthorizedOperationsRequest(Request[MetadataRequest_v5 | _Question]):  # type: ignore[misc]
    """Requests topics and permissions; a broker older than 2.3 returns the topics alone."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[Any]) -> Any:  # noqa: ANN401 - aiokafka's own
        """Make the request in the version that the broker supports."""
        wanted = () if request_struct_class is MetadataRequest_v5 else (False, True)
        return request_struct_class(self._topics, False, *wanted)  # noqa: FBT003 - nothing is created by asking


async def missing_permissions(connection: Connection, topics: Topics, shards: int) -> list[str]:
    """Return, as text, which permissions the gateway lacks: to write, and to read its own records.

    Raises Unavailable, ConfigurationError where the login is refused.
    """
    own = [topics.checkpoints, topics.accounts, topics.control]
    answer = (await connection.ask(_AuthorizedOperationsRequest([*topics.events, *own, topics.audit]))).to_object()
    missing = [
        f"topic {one['topic']}: Kafka does not permit {name}"
        for one in answer["topics"]
        for name, bit in _OPERATIONS.items()
        if (name == "Write" or one["topic"] in own) and not _may(one.get("operations"), bit)
    ]
    for name in [*map(topics.transactional_id, range(shards)), topics.control_id]:
        ended = await connection.ask(EndTxnRequest(name, _NOBODY, 0, False))  # noqa: FBT003 - an abort
        if ended.error_code == _ID_DENIED:
            missing.append(f"transactional id {name}: Kafka does not permit Write")
    return missing


def _may(operations: int | None, bit: int) -> bool:
    """Return whether an operation is permitted, as far as the broker reports it: a value below zero means nothing."""
    return operations is None or operations < 0 or bool(operations & bit)
