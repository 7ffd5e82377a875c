"""A service that counts the updates of each order, exactly once, from Kafka, with aiokafka.

It keeps its own state and its position together (here: one SQLite file), so a crash between the two cannot
happen: what was applied is known. Give it a broker's address, and a file for its state:

    python examples/kafka_consumer_aiokafka.py 127.0.0.1:9092 orders.sqlite
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from gateway.events.encode import read_event

TOPIC = "mesolive.order-update.v1"


def open_state(path: str) -> sqlite3.Connection:
    """Hold what this service knows, and how far it has read, in one database: they change together."""
    state = sqlite3.connect(path)
    state.execute("CREATE TABLE IF NOT EXISTS position (topic TEXT, part INTEGER, next INTEGER, UNIQUE (topic, part))")
    state.execute(
        "CREATE TABLE IF NOT EXISTS orders "
        "(account TEXT, order_id INTEGER, updates INTEGER, qty TEXT, time TEXT, UNIQUE (account, order_id))"
    )
    state.execute("CREATE TABLE IF NOT EXISTS seen (source TEXT, id TEXT, UNIQUE (source, id))")
    state.commit()
    return state


def apply(state: sqlite3.Connection, record: ConsumerRecord) -> bool:
    """Apply one record: the change and the position, or neither. Of what is not new the position alone changes.

    An operator may have published an event again on its own topic, or have reset the account's checkpoint, whereupon
    its events come again with a higher `ce_incarnation`. Such an event would count twice, and its old quantity would
    replace a newer one. An event that is marked late is new, but what it says may be older than what is known.
    """
    headers = dict(record.headers)
    with state:  # one transaction
        is_new = "ce_replayid" not in headers and is_first_sight(state, headers)
        if is_new:
            event = read_event("order-update", record.value)  # exact: decimals are Decimal, with their scale
            account, time = headers["ce_account"].decode(), event.EventTime.rstrip("Z")  # so it compares as text
            qty = None if event.FilledQty is None else str(event.FilledQty)
            state.execute(
                "INSERT INTO orders VALUES (?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET updates = updates + 1",
                (account, event.OrderId, qty, time),
            )
            state.execute(
                "UPDATE orders SET qty = ?, time = ? WHERE account = ? AND order_id = ? AND (time < ? OR NOT ?)",
                (qty, time, account, event.OrderId, time, "ce_late" in headers),
            )
        state.execute(
            "INSERT INTO position VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET next = excluded.next",
            (record.topic, record.partition, record.offset + 1),
        )
    return is_new


def is_first_sight(state: sqlite3.Connection, headers: dict[str, bytes]) -> bool:
    """Note an event by what names it for ever; return whether it was not known."""
    names = headers["ce_source"].decode(), headers["ce_id"].decode()
    return state.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", names).rowcount == 1


async def consume(servers: str, state_file: str, topic: str = TOPIC, *, until_end: bool = False) -> int:
    """Apply order updates to the state; give how many. With `until_end` it ends where the topic ends now."""
    state = open_state(state_file)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers,
        isolation_level="read_committed",  # else it sees what was aborted, and so an event twice
        enable_auto_commit=False,  # the position is ours
        auto_offset_reset="none",  # a position that retention has passed is an error, never skipped in silence
    )
    await consumer.start()
    applied = 0
    try:
        # All partitions, without a group. To share them among processes, give each some of them: never let two
        # handle one partition at a time, for that is where an account's order is kept.
        partitions = [TopicPartition(topic, part) for part in await _partitions(servers, topic)]
        consumer.assign(partitions)
        first = await consumer.beginning_offsets(partitions)
        known = {(one[0], one[1]): one[2] for one in state.execute("SELECT topic, part, next FROM position")}
        for partition in partitions:
            consumer.seek(partition, known.get((partition.topic, partition.partition), first[partition]))
        end = await consumer.end_offsets(partitions)
        while True:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    applied += apply(state, record)
            if until_end and all([await consumer.position(one) >= end[one] for one in partitions]):
                return applied
    finally:
        await consumer.stop()
        state.close()


async def _partitions(servers: str, topic: str) -> list[int]:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        (found,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    if not found["partitions"]:
        raise SystemExit(f"there is no topic {topic}")
    return sorted(one["partition"] for one in found["partitions"])


if __name__ == "__main__":
    asyncio.run(consume(*sys.argv[1:]))
