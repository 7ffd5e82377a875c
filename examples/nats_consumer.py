"""A service that reacts to order updates, exactly once, from NATS JetStream.

It keeps its own state and its position together (here: one SQLite file), so a crash between the two cannot
happen: what was applied is known. Run it beside `make run`, with the broker's address that the demo prints:

    python examples/nats_consumer.py nats://127.0.0.1:PORT
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys

import nats
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from gateway.events.encode import read_event

STREAM = "mesolive-gateway"
ORDERS_OF_ALL_ACCOUNTS = "mesolive.events.order-update.v1.*"


def open_state(path: str) -> sqlite3.Connection:
    """Hold what this service knows, and how far it has read, in one database: they change together."""
    state = sqlite3.connect(path, autocommit=False) if sys.version_info >= (3, 12) else sqlite3.connect(path)
    state.execute(
        "CREATE TABLE IF NOT EXISTS filled (account TEXT, order_id INTEGER, qty TEXT, PRIMARY KEY (account, order_id))"
    )
    state.execute("CREATE TABLE IF NOT EXISTS position (stream_sequence INTEGER)")
    state.commit()
    return state


def apply(state: sqlite3.Connection, message: Msg) -> None:
    """Note the quantity that an order update tells."""
    event = read_event("order-update", message.data)  # exact: decimals are Decimal, with their scale
    state.execute(
        "INSERT INTO filled VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET qty = excluded.qty",
        (message.headers["ce-account"], event.OrderId, None if event.FilledQty is None else str(event.FilledQty)),
    )


async def consume(server: str, state_file: str, *, until_idle: bool = False) -> int:
    """Apply order updates to the state; give how many. With `until_idle` it ends when there is nothing new."""
    state = open_state(state_file)
    (done,) = state.execute("SELECT coalesce(max(stream_sequence), 0) FROM position").fetchone()
    client = await nats.connect(server)
    applied = 0
    try:
        # An ephemeral pull consumer that begins after what is applied already: no acknowledgement is needed,
        # since the position is ours.
        orders = await client.jetstream().pull_subscribe(
            ORDERS_OF_ALL_ACCOUNTS,
            stream=STREAM,
            config=ConsumerConfig(
                ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=done + 1
            ),
        )
        while True:
            try:
                batch = await orders.fetch(100, timeout=1)
            except TimeoutError:  # nothing new: of nats-py's own kind, or of Python's
                if until_idle:
                    return applied
                continue
            for message in batch:
                # An operator may have published an event again on its own subject. Its old quantity would replace a
                # newer one, so of a replay's message the position alone changes.
                if "ce-replayid" not in message.headers:
                    apply(state, message)
                    applied += 1
                state.execute("DELETE FROM position")
                state.execute("INSERT INTO position VALUES (?)", (message.metadata.sequence.stream,))
                state.commit()  # the change and the position, or neither
    finally:
        await client.close()
        state.close()


if __name__ == "__main__":
    asyncio.run(consume(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "orders.sqlite"))
