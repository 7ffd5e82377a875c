"""The gateway's SignalR client beside others': what a push costs, and what becomes of money.

    python -m benchmarks.signalr_clients

prints the table of docs/decisions/0001-signalr-client.md. Each client has a process of its own and the same flood;
pysignalr takes part where it is installed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import threading
from typing import Any

from benchmarks.source import Hub, Load
from benchmarks.task import CALLBACK, PATH, Stopwatch, ask

_EVENTS = 30_000


class _Taker:
    """Keeps what is pushed."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.done = threading.Event()
        self.stopwatch = Stopwatch()

    def take(self, payload: object) -> None:
        self.taken.append(payload)
        if len(self.taken) == _EVENTS:
            self.result = self.stopwatch.result(_EVENTS)
            self.done.set()

    async def wait(self) -> None:
        while not self.done.is_set():  # noqa: ASYNC110 - of another thread, or of this one
            await asyncio.sleep(0.01)

    def print_result(self) -> None:
        """Print what was measured, and end without waiting for threads that never end."""
        truth = Hub()
        truth.load(Load(_EVENTS, kind="order-update"))
        spoilt = sum(_price(sent) != _price(got) for (_, sent), got in zip(truth.events, self.taken, strict=True))
        cpu = 1e6 * self.result.cpu / _EVENTS
        print(json.dumps({"cpu": cpu, "spoilt": spoilt / _EVENTS}), flush=True)
        os._exit(0)


def _price(payload: Any) -> str:  # noqa: ANN401 - bytes, or what a client made of them
    """Return FillPrice as it is written."""
    if isinstance(payload, bytes):
        return payload.partition(b'"fillPrice":')[2].partition(b",")[0].decode()
    return json.dumps(payload["fillPrice"])


async def ours(hub: str) -> None:
    from gateway.bootstrap.log_reader import hub_http, transport_of  # noqa: PLC0415 - other clients must not pay for it
    from gateway.hub.methods import Hub as Methods  # noqa: PLC0415
    from gateway.settings.sections import HubSettings  # noqa: PLC0415
    from gateway.signalr.connect import connect  # noqa: PLC0415

    taker, settings = _Taker(), HubSettings(url=hub)
    async with hub_http(settings) as http:
        connection = await connect(transport_of(settings, http), hub + PATH, "key")
        reading = asyncio.create_task(connection.run(lambda _target, arguments: taker.take(arguments[0])))
        await Methods(connection).subscribe(None)
        taker.stopwatch.start()
        await asyncio.to_thread(ask, hub, "begin")
        await taker.wait()
        reading.cancel()
        taker.print_result()


def signalrcore(hub: str) -> None:
    from benchmarks.usual import listen  # noqa: PLC0415

    taker, opened, subscribed = _Taker(), threading.Event(), threading.Event()
    connection = listen(hub, lambda arguments: taker.take(arguments[0]), opened)
    opened.wait()
    connection.send("SubscribeToStrategies", [{"Strategies": None}], lambda _: subscribed.set())
    subscribed.wait()
    taker.stopwatch.start()
    ask(hub, "begin")
    taker.done.wait()
    taker.print_result()


async def pysignalr(hub: str) -> None:
    from pysignalr.client import SignalRClient  # noqa: PLC0415

    taker, opened, client = _Taker(), asyncio.Event(), SignalRClient(hub + PATH)

    async def take(arguments: list[Any]) -> None:
        taker.take(arguments[0])

    async def on_open() -> None:
        opened.set()

    client.on(CALLBACK, take)
    client.on_open(on_open)
    running = asyncio.create_task(client.run())
    await opened.wait()
    await client.send("SubscribeToStrategies", [{"Strategies": None}])
    taker.stopwatch.start()
    await asyncio.to_thread(ask, hub, "begin")
    await taker.wait()
    running.cancel()
    taker.print_result()


def main() -> None:
    if len(sys.argv) > 1:
        client = {"ours": ours, "signalrcore": signalrcore, "pysignalr": pysignalr}[sys.argv[1]](sys.argv[2])
        if client is not None:
            asyncio.run(client)
        return
    source = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.source"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert source.stdin is not None
    assert source.stdout is not None
    hub = source.stdout.readline().strip()
    clients = ["ours", "signalrcore", *(["pysignalr"] if importlib.util.find_spec("pysignalr") else [])]
    print("| client | CPU µs/push | prices that lost or changed a digit |")
    print("|---|---:|---:|")
    for client in clients:
        ask(hub, "load", {"events": _EVENTS, "kind": "order-update"})
        command = [sys.executable, "-m", "benchmarks.signalr_clients", client, hub]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120)  # noqa: S603
        reported = json.loads(done.stdout.splitlines()[-1])
        print(f"| {client} | {reported['cpu']:.1f} | {reported['spoilt']:.1%} |")
    source.stdin.close()


if __name__ == "__main__":
    main()
