"""What most people write: signalrcore's callback, and the broker's client awaited for each event."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import nats
from aiokafka import AIOKafkaProducer
from signalrcore.hub_connection_builder import HubConnectionBuilder
from signalrcore.types import HttpTransportType

from benchmarks.task import PATH, Result, Stopwatch, Task, ask
from gateway.simulator.events import CALLBACKS

_Publish = Callable[[bytes, bytes], Awaitable[object]]


async def kafka_loop(task: Task) -> Result:
    """`send_and_wait` for each event."""
    async with AIOKafkaProducer(bootstrap_servers=task.server) as producer:
        await producer.partitions_for("bare.usual")
        return await _follow(task, lambda key, value: producer.send_and_wait("bare.usual", value, key=key))


async def jetstream_loop(task: Task) -> Result:
    """`js.publish` for each event."""
    client = await nats.connect(task.server)
    js = client.jetstream()
    await js.add_stream(name="usual", subjects=["usual.>"])
    result = await _follow(task, lambda key, value: js.publish("usual.event", value, headers={"key": key.decode()}))
    await client.close()
    return result


async def _follow(task: Task, publish: _Publish) -> Result:
    loop = asyncio.get_running_loop()
    done, opened, subscribed = threading.Event(), threading.Event(), threading.Event()
    count = 0

    def on_event(arguments: list[Any]) -> None:
        nonlocal count
        payload = arguments[0]
        key, value = str(payload["eventSeqId"]).encode(), json.dumps(payload).encode()
        asyncio.run_coroutine_threadsafe(publish(key, value), loop).result()
        count += 1
        if count == task.events:
            done.set()

    connection = listen(task.hub, on_event, opened)
    await asyncio.to_thread(opened.wait)
    connection.send("SubscribeToStrategies", [{"Strategies": None}], lambda _: subscribed.set())
    await asyncio.to_thread(subscribed.wait)
    stopwatch = Stopwatch()
    await asyncio.to_thread(ask, task.hub, "begin")
    await asyncio.to_thread(done.wait)
    return stopwatch.result(count)


def listen(hub: str, on_event: Callable[[list[Any]], None], opened: threading.Event) -> Any:  # noqa: ANN401 - no types
    """Connect as signalrcore's readme says."""
    options = {"access_token_factory": lambda: "key", "transport": HttpTransportType.web_sockets}
    connection = HubConnectionBuilder().with_url(hub + PATH, options=options).build()
    connection.on_open(opened.set)
    for callback in CALLBACKS:
        connection.on(callback, on_event)
    connection.start()
    return connection
