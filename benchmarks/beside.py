"""What the control plane and replays cost live events, and the other way round: one gateway, each load in turn.

    python -m benchmarks.beside --seconds 10

A delay is the time from the hub's own time of an event to the one at which nats-server stored it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.checker import Found, judge
from tests.support.control_client import Control, control_of
from tests.support.gateway_process import House, house, until
from tests.support.replay_client import apart, asked, ended

CONNECTIONS = 8
RATES = (100, 5_000)
HISTORY = 60_000
READS = 1_000
"""Status reads a second."""


def at(quantile: float, values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(quantile * len(values)))]


async def read(url: str, rate: float, seconds: float) -> None:
    """Ask for an account, so often a second, and print how many answers came how late."""
    parts = urlsplit(url)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    took: list[float] = []

    async def ask(number: int) -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        due = began + number / rate
        while due < began + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            took.append(time.perf_counter() - due)
            due += CONNECTIONS / rate
        writer.close()

    began = time.perf_counter() + 0.1
    await asyncio.gather(*(ask(number) for number in range(CONNECTIONS)))
    print(json.dumps({"rate": len(took) / seconds, "p50": at(0.5, took), "p99": at(0.99, took)}))


async def reading(url: str, seconds: float) -> dict[str, float]:
    """Read in a process of its own."""
    command = (sys.executable, "-m", "benchmarks.beside", "--read", url, "--seconds", str(seconds))
    running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    result, _ = await running.communicate()
    assert running.returncode == 0
    found: dict[str, float] = json.loads(result)
    return found


def delays(log: Sequence[Found], since: float) -> list[float]:
    """Return the delays of the events that were stored after a moment, in ms."""
    from gateway.events.times import TICKS_PER_SECOND, ticks  # noqa: PLC0415 - the reading process need not load it

    return [
        1000 * (one.stored_at - ticks(one.headers["ce-time"].replace("%3A", ":")) / TICKS_PER_SECOND)
        for one in log
        if one.stored_at > since and ".events." in one.subject
    ]


async def measured(
    here: House, control: Control, rate: float, seconds: float, *, reads: bool = False, replays: bool = False
) -> str:
    """Let events flow at a rate, with something beside them, and say what was seen."""
    live, other = here.accounts
    before = {user["name"]: user for user in await here.users()}[live]["counts"].get("emitted", 0)
    id_ = await asked(control, other) if replays else None
    if replays:
        await asyncio.sleep(1)
    began = time.time()
    await here.ask(f"POST /users/{live}/emit", count=round(rate * seconds), rate=rate)
    message = ""
    if reads:
        result = await reading(f"{control.url}/v1/accounts/{live}", seconds)
        message = f"{result['rate']:.0f} reads/s, p50 {1000 * result['p50']:.1f} ms, p99 {1000 * result['p99']:.1f} ms"
    else:
        await asyncio.sleep(seconds)
    if id_ is not None:
        progress = (await control.ask(f"GET /v1/replays/{id_}")).body["progress"]
        message = f"a replay of {progress['events_per_second']:.0f} events/s"
        await control.ask(f"POST /v1/replays/{id_}/cancel")
        await ended(control, id_, "cancelled")

    async def have_come() -> bool:
        counts = {user["name"]: user["counts"] for user in await here.users()}[live]
        return bool(counts["emitted"] >= before + rate * seconds)

    await until(have_come, "all is emitted")
    await here.reached(await here.latest(), lambda value: json.loads(value)["verified"])
    found, _ = apart(await here.log())
    seen = delays(found, began)
    return (
        f"| {rate:g} | {message or 'nothing'} | {len(seen) / seconds:.0f} | {statistics.median(seen):.1f} "
        f"| {at(0.99, seen):.1f} |"
    )


async def main(seconds: float, rounds: int) -> None:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        async with house(Path(folder), accounts=2) as here:
            await here.ask(f"POST /users/{here.accounts[1]}/emit", count=HISTORY)
            control = await control_of(await here.gateway(), here.http)
            await control.ready()
            await control.live(here.accounts)
            await here.reached(await here.latest(), lambda value: json.loads(value)["verified"])
            print("| events/s | beside them | stored/s | p50, ms | p99, ms |\n|---|---|---|---|---|")
            for _ in range(rounds):
                for rate in RATES:
                    print(await measured(here, control, rate, seconds), flush=True)
                    print(await measured(here, control, rate, seconds, reads=True), flush=True)
                    print(await measured(here, control, rate, seconds, replays=True), flush=True)
            live, _ = apart(await here.log())
            print(f"\nall of it: {judge(await here.truth(), live)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    asked_for = parser.parse_args()
    if asked_for.read:
        asyncio.run(read(asked_for.read, READS, asked_for.seconds))
    else:
        asyncio.run(main(asked_for.seconds, asked_for.rounds))
