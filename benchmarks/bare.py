"""What a Python loop does that checks nothing: from an aiohttp WebSocket straight into the broker, and bare commits.

It neither decodes nor validates, knows no sequence and no checkpoint, and loses or doubles events at each fault. Its
messages have as many bytes as the gateway's: the same headers, but always those of one event.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from uuid import uuid4

import aiohttp
import msgspec
import nats
from aiokafka import AIOKafkaProducer

from benchmarks.task import CHECKPOINT_BYTES, PATH, Result, Stopwatch, Task, ask
from gateway.broker.jetstream.topics import KEY
from gateway.broker.kafka.client_internals import apply_patches
from gateway.broker.kafka.topics import headers_of
from gateway.events.event import Event
from gateway.publication import event_message
from gateway.simulator.events import CALLBACKS

_BATCH = 1024 * 1024
_IN_FLIGHT = 8
_UNANSWERED = 5_000
"""Messages that JetStream may owe an answer for; from 10,000 on it drops some."""
_MESSAGE = event_message(
    Event("bare-account", "order-update", 100_000, str(uuid4()), "2026-11-22T13:32:25.0533061Z", 101, b"x" * 640)
)
_KAFKA_HEADERS = headers_of(_MESSAGE)
_NATS_HEADERS = {KEY: _MESSAGE.key.decode(), **{f"ce-{name}": value for name, value in _MESSAGE.attributes.items()}}


class _Record(msgspec.Struct):
    type: int
    target: str = ""
    arguments: list[msgspec.Raw] = []


_decode = msgspec.json.Decoder(_Record).decode


async def _pushes(task: Task) -> AsyncIterator[_Record]:
    """Connect, subscribe, let the flood begin, and give each push."""
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(task.hub + PATH, compress=0, decode_text=False, max_msg_size=0) as socket,
    ):
        await socket.send_str('{"protocol":"json","version":1}\x1e')
        await socket.receive()
        await socket.send_str(
            '{"type":1,"invocationId":"1","target":"SubscribeToStrategies","arguments":[{"Strategies":null}]}\x1e'
        )
        await socket.receive()
        await asyncio.to_thread(ask, task.hub, "begin")
        while True:
            message = await socket.receive()
            for raw in message.data.split(b"\x1e"):
                if raw:
                    record = _decode(raw)
                    if record.type == 1:
                        yield record


async def kafka_loop(task: Task) -> Result:
    """Put records into batches and send them, several at once."""
    async with AIOKafkaProducer(bootstrap_servers=task.server, max_batch_size=_BATCH) as producer:
        open_batches, flying, events = {}, deque(), 0
        for callback in CALLBACKS:
            await producer.partitions_for(f"bare.{callback}")  # metadata is not what is measured
        stopwatch = Stopwatch()
        async for push in _pushes(task):
            topic = f"bare.{push.target}"
            batch = open_batches.get(topic)
            record = {"timestamp": 0, "key": b"100000", "value": bytes(push.arguments[0]), "headers": _KAFKA_HEADERS}
            if batch is None or batch.append(**record) is None:
                if batch is not None:
                    flying.append(await producer.send_batch(batch, topic, partition=0))
                    if len(flying) > _IN_FLIGHT:
                        await flying.popleft()
                batch = open_batches[topic] = producer.create_batch()
                batch.append(**record)
            events += 1
            if events == task.events:
                break
        flying += [await producer.send_batch(batch, topic, partition=0) for topic, batch in open_batches.items()]
        await asyncio.gather(*flying)
        return stopwatch.result(events)


async def jetstream_loop(task: Task) -> Result:
    """Publish one message after the other without waiting for their answers."""
    client = await nats.connect(task.server)
    await _make_stream(client)
    answered, room = 0, asyncio.Event()

    async def on_answer(_message: object) -> None:
        nonlocal answered
        answered += 1
        room.set()

    inbox = client.new_inbox()
    await client.subscribe(inbox, cb=on_answer, pending_bytes_limit=0, pending_msgs_limit=0)
    events = 0
    stopwatch = Stopwatch()
    async for push in _pushes(task):
        await client.publish(f"bare.{push.target}", bytes(push.arguments[0]), reply=inbox, headers=_NATS_HEADERS)
        events += 1
        if events == task.events:
            break
        while events - answered > _UNANSWERED:
            room.clear()
            await room.wait()
    while answered < events:
        room.clear()
        await room.wait()
    result = stopwatch.result(events)
    await client.close()
    return result


async def kafka_transactions(task: Task) -> Result:
    """Commit one message and one checkpoint at the task's rate, and measure each commit."""
    apply_patches()  # without the 20 ms that aiokafka else waits between two transactions
    producer = AIOKafkaProducer(
        bootstrap_servers=task.server, transactional_id=task.account, max_batch_size=_BATCH, acks="all"
    )
    async with producer:
        await producer.partitions_for("bare.OnOrderUpdate")
        await producer.partitions_for("bare.checkpoints")

        async def commit() -> None:
            await producer.begin_transaction()
            flying = []
            for topic, value, headers in (
                ("bare.OnOrderUpdate", _MESSAGE.value, _KAFKA_HEADERS),
                ("bare.checkpoints", bytes(CHECKPOINT_BYTES), []),
            ):
                batch = producer.create_batch()
                batch.append(timestamp=int(time.time() * 1000), key=b"100000", value=value, headers=headers)
                flying.append(await producer.send_batch(batch, topic, partition=0))
            await asyncio.gather(*flying)
            await producer.commit_transaction()

        return await _paced(task, commit)


async def jetstream_batches(task: Task) -> Result:
    """Commit one message and one checkpoint in an atomic batch at the task's rate, and measure each commit."""
    client = await nats.connect(task.server)
    await _make_stream(client)

    async def commit() -> None:
        head = {"Nats-Batch-Id": uuid4().hex, "Nats-Batch-Sequence": "1"}
        await client.publish("bare.OnOrderUpdate", _MESSAGE.value, headers={**_NATS_HEADERS, **head})
        head |= {"Nats-Batch-Sequence": "2", "Nats-Batch-Commit": "1"}
        answer = await client.request("bare.checkpoint", bytes(CHECKPOINT_BYTES), headers=head)
        assert json.loads(answer.data)["count"] == 2, answer.data

    result = await _paced(task, commit)
    await client.close()
    return result


async def _make_stream(client: nats.aio.client.Client) -> None:
    config = {"name": "bare", "subjects": ["bare.>"], "storage": "file", "num_replicas": 1, "allow_atomic": True}
    await client.request("$JS.API.STREAM.CREATE.bare", json.dumps(config).encode())


async def _paced(task: Task, commit: object) -> Result:
    for _ in range(20):  # warm
        await commit()
    stopwatch, latencies = Stopwatch(), []
    for number in range(task.events):
        due = stopwatch.began + number / task.rate
        await asyncio.sleep(due - time.monotonic())
        began = time.monotonic()
        await commit()
        latencies.append(time.monotonic() - began)
    return stopwatch.result(task.events, commits=task.events, latencies=latencies)
