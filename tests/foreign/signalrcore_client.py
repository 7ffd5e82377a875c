"""signalrcore, the usual SignalR client for Python, taken through one visit to the simulator.

    python signalrcore_client.py <hub url> <key> <callbacks to wait for, with commas between>

It prints one JSON line for each thing that it sees; the test that started it decides what is right. It is a
process of its own because signalrcore's threads outlive its connection.
"""

import json
import os
import queue
import sys
from typing import Any

from signalrcore.hub_connection_builder import HubConnectionBuilder
from signalrcore.types import HttpTransportType

WAIT = 30
"""Seconds for anything that the hub is about to do."""


def emit(**what: Any) -> None:  # noqa: ANN401 - any JSON
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(url: str, key: str, callbacks: list[str]) -> None:
    events: queue.Queue[tuple[str, Any]] = queue.Queue()
    answers: queue.Queue[Any] = queue.Queue()
    opened: queue.Queue[None] = queue.Queue()
    closed: queue.Queue[None] = queue.Queue()

    connection = (
        HubConnectionBuilder()
        .with_url(url, options={"access_token_factory": lambda: key, "transport": HttpTransportType.web_sockets})
        .build()
    )
    connection.on_open(lambda: opened.put(None))
    connection.on_close(lambda: closed.put(None))
    connection.on_error(answers.put)
    for name in callbacks:
        connection.on(name, lambda arguments, name=name: events.put((name, arguments[0])))

    def call(method: str, argument: dict[str, Any]) -> Any:  # noqa: ANN401 - a completion of a library without types
        connection.send(method, [argument], answers.put)
        return answers.get(timeout=WAIT)

    connection.start()
    opened.get(timeout=WAIT)
    emit(subscribed=call("SubscribeToStrategies", {"Strategies": None}).result)
    missing = set(callbacks)
    while missing:
        name, payload = events.get(timeout=WAIT)
        missing.discard(name)
        emit(callback=name, payload=payload)

    token = None
    while True:
        page = call("GetEventsSince", {"SinceEventSeqId": 0, "Limit": 5, "ContinuationToken": token}).result
        emit(page=page)
        token = page["data"]["continuationToken"]
        if not token:
            break

    emit(error=call("GetLatestEventSeqId", {}).error)
    emit(refused=call("GetLatestEventSeqId", {}).result)
    emit(latest=call("GetLatestEventSeqId", {}).result)
    closed.get(timeout=WAIT)
    emit(closed=None)
    sys.stdout.flush()
    os._exit(0)  # without waiting for threads that never end


main(sys.argv[1], sys.argv[2], sys.argv[3].split(","))
