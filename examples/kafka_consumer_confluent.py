"""A service that counts the updates of each order, exactly once, from Kafka, with confluent-kafka.

It keeps its own state and its position together (here: one SQLite file), so a crash between the two cannot
happen: what was applied is known. Give it a broker's address, and a file for its state:

    python examples/kafka_consumer_confluent.py 127.0.0.1:9092 orders.sqlite
"""

from __future__ import annotations

import sqlite3
import sys

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

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


def apply(state: sqlite3.Connection, message: Message) -> bool:
    """Apply one message: the change and the position, or neither. Of what is not new the position alone changes.

    An operator may have published an event again on its own topic, or have reset the account's checkpoint, whereupon
    its events come again with a higher `ce_incarnation`. Such an event would count twice, and its old quantity would
    replace a newer one. An event that is marked late is new, but what it says may be older than what is known.
    """
    headers = dict(message.headers())
    with state:  # one transaction
        is_new = "ce_replayid" not in headers and is_first_sight(state, headers)
        if is_new:
            event = read_event("order-update", message.value())  # exact: decimals are Decimal, with their scale
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
            (message.topic(), message.partition(), message.offset() + 1),
        )
    return is_new


def is_first_sight(state: sqlite3.Connection, headers: dict[str, bytes]) -> bool:
    """Note an event by what names it for ever; return whether it was not known."""
    names = headers["ce_source"].decode(), headers["ce_id"].decode()
    return state.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", names).rowcount == 1


def consume(servers: str, state_file: str, topic: str = TOPIC, *, until_end: bool = False) -> int:
    """Apply order updates to the state; give how many. With `until_end` it ends where the topic ends now."""
    state = open_state(state_file)
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "orders",  # librdkafka wants one; nothing is committed to it
            "isolation.level": "read_committed",  # else it sees what was aborted, and so an event twice
            "enable.auto.commit": False,  # the position is ours
            "auto.offset.reset": "error",  # a position that retention has passed is said, never skipped in silence
            "enable.partition.eof": until_end,
        }
    )
    applied = 0
    try:
        # All partitions, without a rebalance. To share them among processes, give each some of them: never let two
        # handle one partition at a time, for that is where an account's order is kept.
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        if not partitions:
            raise SystemExit(f"there is no topic {topic}")
        known = dict(state.execute("SELECT part, next FROM position WHERE topic = ?", (topic,)))
        places = [TopicPartition(topic, part) for part in partitions]
        for place in places:
            first, _ = consumer.get_watermark_offsets(place, timeout=10)
            place.offset = known.get(place.partition, first)
        consumer.assign(places)
        left = set(partitions)
        while left:
            message = consumer.poll(1)
            if message is None:
                continue
            error = message.error()
            if error is None:
                applied += apply(state, message)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name in librdkafka, too
                left.discard(message.partition())
            else:
                raise KafkaException(error)
        return applied
    finally:
        consumer.close()
        state.close()


if __name__ == "__main__":
    consume(*sys.argv[1:])
