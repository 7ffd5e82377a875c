"""A service that reacts to order updates, exactly once, from NATS JetStream.

It keeps its own state and its position together (here: one SQLite file), so a crash between the two cannot
happen: what was applied is known. Run it beside `make run`, with the broker's address that the demo prints:

    python examples/nats_consumer.py nats://127.0.0.1:PORT

Its consumer has a name of its own, `example`, so that its user needs no permission to make consumers. On a server with
permissions an administrator makes it, as docs/operate/nats.md says; elsewhere this program does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from gateway.events.encode import read_event

API = os.environ.get("NATS_API_PREFIX", "$JS.API")
"""What JetStream's API is called: `gateway.API` in an account of the service's own, as docs/operate/nats.md has it."""
STREAM = "mesolive-gateway"
CONSUMER = "example"
ORDERS_OF_ALL_ACCOUNTS = "mesolive.events.order-update.v1.*"


def open_state(path: str) -> sqlite3.Connection:
    """Hold what this service knows, and how far it has read, in one database: they change together."""
    state = sqlite3.connect(path, autocommit=False) if sys.version_info >= (3, 12) else sqlite3.connect(path)
    state.execute(
        "CREATE TABLE IF NOT EXISTS filled "
        "(account TEXT, order_id INTEGER, qty TEXT, time TEXT, PRIMARY KEY (account, order_id))"
    )
    state.execute("CREATE TABLE IF NOT EXISTS seen (source TEXT, id TEXT, PRIMARY KEY (source, id))")
    state.execute("CREATE TABLE IF NOT EXISTS position (stream_sequence INTEGER)")
    state.commit()
    return state


def is_first_sight(state: sqlite3.Connection, message: Msg) -> bool:
    """Note an event by what names it for ever; return whether it was not known."""
    names = message.headers["ce-source"], message.headers["ce-id"]
    return state.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", names).rowcount == 1


def apply(state: sqlite3.Connection, message: Msg) -> None:
    """Note the quantity that an order update tells; a late one may tell what is older than what is known."""
    event = read_event("order-update", message.data)  # exact: decimals are Decimal, with their scale
    state.execute(
        "INSERT INTO filled VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET qty = excluded.qty, time = excluded.time WHERE excluded.time > time OR NOT ?",
        (
            message.headers["ce-account"],
            event.OrderId,
            None if event.FilledQty is None else str(event.FilledQty),
            event.EventTime.rstrip("Z"),  # so it compares as text
            "ce-late" in message.headers,
        ),
    )


async def make_consumer(stream: JetStreamContext) -> None:
    """Make the consumer unless it is there."""
    try:
        await stream.consumer_info(STREAM, CONSUMER)
    except NotFoundError:
        config = ConsumerConfig(durable_name=CONSUMER, filter_subject=ORDERS_OF_ALL_ACCOUNTS, ack_policy=AckPolicy.NONE)
        await stream.add_consumer(STREAM, config)


async def begin_after(client: Client, done: int) -> JetStreamContext.PullSubscription:
    """Let the consumer begin after the stream sequence `done`; its own count of messages begins at 1 again."""
    request = json.dumps({"seq": done + 1}).encode()
    answer = await client.request(f"{API}.CONSUMER.RESET.{STREAM}.{CONSUMER}", request, timeout=10)
    error = json.loads(answer.data).get("error")
    if error is not None:
        raise RuntimeError(error["description"])
    return await client.jetstream(prefix=API).pull_subscribe_bind(consumer=CONSUMER, stream=STREAM)


async def fetch(orders: JetStreamContext.PullSubscription) -> list[Msg]:
    """Return what is there; an empty list when nothing came for a second."""
    try:
        return await orders.fetch(100, timeout=1)
    except TimeoutError:  # of nats-py's own kind, or of Python's
        return []


def unbroken(batch: list[Msg], count: int) -> list[Msg]:
    """Return the messages before the first one that another process took, such as one that should have ended."""
    return [one for place, one in enumerate(batch, count + 1) if one.metadata.sequence.consumer == place]


async def consume(server: str, state_file: str, *, until_idle: bool = False) -> int:
    """Apply order updates to the state; return how many. With `until_idle` it ends when there is nothing new."""
    state = open_state(state_file)
    (done,) = state.execute("SELECT coalesce(max(stream_sequence), 0) FROM position").fetchone()
    client = await nats.connect(server)
    applied = 0
    try:
        await make_consumer(client.jetstream(prefix=API))
        while True:
            # No acknowledgement is needed, since the position is ours.
            orders, count, is_complete = await begin_after(client, done), 0, True
            while is_complete:
                batch = await fetch(orders)
                mine = unbroken(batch, count)
                for message in mine:
                    done = message.metadata.sequence.stream
                    # An operator may have published an event again on its own subject, or have reset the account's
                    # checkpoint, whereupon its events come again with a higher ce-incarnation. The old quantity would
                    # replace a newer one, so of what is not new the position alone changes.
                    if "ce-replayid" not in message.headers and is_first_sight(state, message):
                        apply(state, message)
                        applied += 1
                    state.execute("DELETE FROM position")
                    state.execute("INSERT INTO position VALUES (?)", (done,))
                    state.commit()  # the change and the position, or neither
                if until_idle and not batch:
                    return applied
                count += len(mine)
                is_complete = 0 < len(batch) == len(mine)  # where nothing came, another process may have it
            await orders.unsubscribe()
    finally:
        await client.close()
        state.close()


if __name__ == "__main__":
    asyncio.run(consume(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "orders.sqlite"))
