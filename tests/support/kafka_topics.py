"""Topics that somebody else than the gateway makes."""

from __future__ import annotations

import asyncio

from confluent_kafka.admin import (
    AdminClient,
    NewTopic,
)


def admin(address: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": address})


async def made(address: str, name: str, partitions: int = 3, **config: str) -> None:
    """Make a topic as somebody else would."""
    topic = NewTopic(name, partitions, 1, config={key.replace("_", "."): value for key, value in config.items()})
    client = admin(address)
    await asyncio.to_thread(client.create_topics([topic])[name].result)
