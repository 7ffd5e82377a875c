"""What tracing costs: the same flood without it, with nothing sampled, and with a part of it, in turn and in one run.

    python -m benchmarks.tracing --rounds 7

A collector takes all spans in a process of its own. Each round has every contender, each time another one first; a
contender is compared with the one without traces of its own round, so that what the machine does besides weighs less.
On a machine that others use that is still a coarse measure. So the part of the work that traces touch, from items to a
commit's messages, is measured by itself, too, in one process and in turn: its CPU with all that the exporting thread
takes. The difference, in µs an event, is what traces cost; the last column gives it as a part of a whole event's CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import uuid4

from benchmarks.bench import House, Scenario
from benchmarks.report import machine
from benchmarks.task import Result
from gateway.bootstrap.event_loop import tune_garbage_collector
from gateway.events.event import Event
from gateway.replica.sink.message_maker import to_message
from gateway.replica.sink.pending_commit import PendingCommit
from gateway.session.types import OutgoingItem
from gateway.settings.sections import TracingSettings
from gateway.telemetry.tracer import MessagingSystem, Tracer, tracing

OFF = "off"
_COMMIT = 968
_COMMITS = 100


class Collector(BaseHTTPRequestHandler):
    """Takes everything, and counts bytes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def collector() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.tracing", "--collect"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:  # noqa: S603 - our own
        assert running.stdout is not None
        try:
            yield running.stdout.readline().strip()
        finally:
            running.kill()


def collect() -> None:
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()


def compared(runs: dict[str, list[Result]]) -> list[dict[str, object]]:
    """Return a row for each contender, with what it costs beside the first in its own round."""
    rows = []
    for name, results in runs.items():
        rates = [one.events / one.seconds for one in results]
        cpus = [1e6 * one.cpu / one.events for one in results]
        slower = [
            1 - mine.seconds**-1 * mine.events / (other.events / other.seconds)
            for mine, other in zip(results, runs[OFF], strict=True)
        ]
        dearer = [mine.cpu / other.cpu - 1 for mine, other in zip(results, runs[OFF], strict=True)]
        rows.append({"contender": name, "events/s": rates, "CPU µs/event": cpus, "slower": slower, "dearer": dearer})
    return rows


def aside(url: str, ratios: dict[str, float | None], rounds: int) -> dict[str, list[float]]:
    """Return the µs of CPU that making commits takes for each event, spans and their export included."""
    body = b'{"EventId":"x"}' + b" " * 640
    items = [
        OutgoingItem(Event("acme", "order-update", number, str(uuid4()), "2026-11-22T13:32:25.0923668Z", 7, body))
        for number in range(1, _COMMIT + 1)
    ]
    broker = MessagingSystem("nats", {"order-update": "mesolive.events.order-update.v1.*"})
    took: dict[str, list[float]] = {name: [] for name in ratios}
    with ExitStack() as stack:
        tracers = {
            name: stack.enter_context(
                tracing(
                    TracingSettings(endpoint=None if ratio is None else url, sample_ratio=ratio or 0),
                    role="x",
                    broker=broker,
                )
            )
            for name, ratio in ratios.items()
        }
        tune_garbage_collector()
        for round_ in range(rounds + 1):
            for name, tracer in tracers.items():
                began = time.process_time()
                for _ in range(_COMMITS):
                    commit(tracer, items)
                if ratios[name]:
                    time.sleep(1.3)  # until all of it is exported
                if round_:
                    took[name].append(1e6 * (time.process_time() - began) / _COMMIT / _COMMITS)
    return took


def commit(tracer: Tracer, items: list[OutgoingItem]) -> None:
    """Do what a shard does to make a commit of items."""
    pending = PendingCommit(aim=sys.maxsize)
    for item in items:
        message = to_message(item)
        pending.messages.append(message)
        pending.size += message.size
    for place in tracer.sampled(len(items)):
        pending.add_traces(place, tracer)
    span = tracer.send(0, pending.messages, 1, pending.created)
    span.activate()
    span.end()


def shown(values: Sequence[float], form: str) -> str:
    median, least, most = (form.format(one) for one in (statistics.median(values), min(values), max(values)))
    return f"{median} ({least} to {most})"


def markdown(rows: Sequence[dict[str, object]]) -> str:
    lines = [
        "| traces | events/s | CPU µs/event | less throughput than off | more CPU than off |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [str(row["contender"]), shown(row["events/s"], "{:,.0f}"), shown(row["CPU µs/event"], "{:.1f}")]  # type: ignore[arg-type]
        if row["contender"] != OFF:
            cells += [shown(row[name], "{:+.1%}") for name in ("slower", "dearer")]  # type: ignore[arg-type]
        lines.append(f"| {' | '.join(cells + [''] * (5 - len(cells)))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--broker", choices=["jetstream", "kafka"], default="jetstream")
    parser.add_argument("--records", type=int, default=50, help="events in one frame of the hub (50)")
    parser.add_argument("--ratio", type=float, action="append", help="may come several times (0 and 0.01)")
    parser.add_argument("--profile", type=Path, help="a folder for what cProfile sees of each process; rates suffer")
    parser.add_argument("--output", type=Path, help="a file for all figures, as JSON")
    parser.add_argument("--collect", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.collect:
        collect()
        return
    ratios = {OFF: None} | {f"ratio {ratio:g}": ratio for ratio in arguments.ratio or (0.0, 0.01)}
    load = {"records": arguments.records}
    scenario = Scenario("flood", arguments.broker, load, {"gateway": arguments.events})
    runs: dict[str, list[Result]] = {name: [] for name in ratios}
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder, ExitStack() as stack:
        house, url = House(stack, Path(folder)), stack.enter_context(collector())
        for round_ in range(arguments.rounds + 1):
            names = list(ratios)
            for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
                more = {} if ratios[name] is None else {"collector": url, "ratio": ratios[name]}
                profile = arguments.profile and str(arguments.profile / f"{name}, round {round_}.prof")
                result = house.measure(scenario, "gateway", profile, **more)
                print(f"round {round_}, {name}: {result.events / result.seconds:,.0f}/s", file=sys.stderr, flush=True)
                if round_:  # the first one warms up
                    runs[name].append(result)
        took = aside(url, ratios, arguments.rounds)
    rows = compared(runs)
    print(markdown(rows))
    whole = statistics.median(1e6 * one.cpu / one.events for one in runs[OFF])
    print("\n| traces | making commits, CPU µs/event | more than off | of a whole event |\n|---|---:|---:|---:|")
    for name, values in took.items():
        more = [mine - other for mine, other in zip(values, took[OFF], strict=True)]
        part = f"{statistics.median(more) / whole:+.1%}"
        print(f"| {name} | {shown(values, '{:.2f}')} | {shown(more, '{:+.2f}')} | {part} |")
    if arguments.output:
        arguments.output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
