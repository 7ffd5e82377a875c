"""Records that need no transaction, many at once."""

from __future__ import annotations

from collections.abc import Mapping

from aiokafka import AIOKafkaProducer
from aiokafka.structs import TopicPartition


async def stored(producer: AIOKafkaProducer, tp: TopicPartition, records: Mapping[bytes, bytes | None]) -> int:
    """Send records in batches, wait until all of them are stored, and return the time of the last one.

    None is a tombstone. Raises what aiokafka does; others of them may be stored then.
    """
    batches = [producer.create_batch()]
    for key, value in records.items():
        if batches[-1].append(key=key, value=value, timestamp=None) is None:
            batches.append(producer.create_batch())
            batches[-1].append(key=key, value=value, timestamp=None)

    time = 0
    for batch in batches:  # one after another: of many that wait, the library gives up some long before their time
        sent = await producer.send_batch(batch, tp.topic, partition=tp.partition)
        time = int((await sent).timestamp)
    return time
