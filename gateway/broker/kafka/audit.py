"""The audit trail on Kafka: a topic of one partition to which records are only added, keyed by their account."""

from __future__ import annotations

from aiokafka.structs import TopicPartition

from gateway.broker.kafka.connection import Connection
from gateway.broker.kafka.topics import Topics


class KafkaAudit:
    """The audit trail of one deployment (`gateway.broker.ports.AuditTrail`)."""

    def __init__(self, connection: Connection, topics: Topics) -> None:
        self._connection = connection
        self._place = TopicPartition(topics.audit, 0)

    async def append(self, id_: str, account: str, record: bytes) -> None:  # noqa: ARG002 - the record says it
        """Store a record; see the contract."""
        await self._connection.write(self._place, {account.encode(): record})
