"""Measures the gateway beside its baselines, interleaved, in one run: `make bench`.

Each measurement is a process of its own. Its rate is in events a second by the clock, which other processes on the
machine share; its cost is in microseconds of its own CPU for each event, which they do not.

    python -m benchmarks.bench --only jetstream --rounds 5
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks.brokers import BROKERS
from benchmarks.report import machine, markdown, rows
from benchmarks.task import Result, Task, ask
from gateway.events.catalogue import KINDS
from tests.support import leftovers

_HERE = Path(__file__).parent
_TIMEOUT_S = 120
"""Seconds for one measurement."""


@dataclass(frozen=True)
class Scenario:
    """Contenders that do the same."""

    name: str
    broker: str
    load: dict[str, object]
    contenders: dict[str, int]
    """How many events each gets: slow ones fewer."""
    budgets: dict[str, float] = field(default_factory=dict)
    """What the first contender must reach, as a multiple of another one's rate, or of its p99."""


def scenarios(events: int, seconds: float, kind: str | None) -> Iterator[Scenario]:
    """Yield everything that is measured, with all 17 kinds of events or one."""
    for broker, (title, records) in itertools.product(BROKERS, (("frames of 1", 1), ("frames of 50", 50))):
        few = max(500, events // 40)
        contenders = {"gateway": events, f"bare-{broker}": events, f"usual-{broker}": few}
        budgets = {f"bare-{broker}": 0.6, f"usual-{broker}": 20} if broker == "kafka" else {}
        load = {"records": records, "kind": kind}
        yield Scenario(f"flood, {title} → {broker}", broker, load, contenders, budgets)
    for broker in BROKERS:
        some = round(100 * seconds)
        contenders = {"gateway": some, f"transactions-{broker}": some}
        yield Scenario(
            f"live, 100/s → {broker}", broker, {"rate": 100, "kind": kind}, contenders, {f"transactions-{broker}": 2}
        )
    for broker, (title, wait) in itertools.product(BROKERS, (("instant pages", 0), ("pages of 50 ms", 0.05))):
        load = {"history": True, "kind": kind, "page_seconds": wait}
        contenders = {"catch-up": events, "throw-away": events}
        yield Scenario(f"catch-up, {title} → {broker}", broker, load, contenders, {"throw-away": 0.8})


class House:
    """The source and the brokers, started when they are first needed."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        self._brokers: dict[str, str] = {}
        self._accounts = itertools.count(1)
        self.hub = stack.enter_context(_source())

    def broker(self, name: str) -> str:
        """Return the address of a broker."""
        if name not in self._brokers:
            self._brokers[name] = self._stack.enter_context(BROKERS[name](self._folder / name))
        return self._brokers[name]

    def measure(self, scenario: Scenario, contender: str, profile: str | None = None, **more: object) -> Result:
        """Run one contender; `more` is what its task says besides."""
        events = scenario.contenders[contender]
        ask(self.hub, "load", {"events": events, **scenario.load})
        task = Task(
            contender=contender,
            hub=self.hub,
            broker=scenario.broker,
            server=self.broker(scenario.broker),
            events=events,
            account=f"run-{next(self._accounts)}",
            rate=float(scenario.load.get("rate", 0)),  # type: ignore[arg-type]
            profile=profile,
            **more,  # type: ignore[arg-type]
        )
        command = [sys.executable, "-m", "benchmarks.worker", msgspec.json.encode(task).decode()]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=_TIMEOUT_S)  # noqa: S603
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=Result)


@contextmanager
def _source() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.source"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as source:  # noqa: S603
        assert source.stdin is not None
        assert source.stdout is not None
        try:
            yield source.stdout.readline().strip()
        finally:
            source.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="a word of a scenario's name; several must all be")
    parser.add_argument("--contender", action="append", default=[], help="one contender; may come several times")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (3)")
    parser.add_argument("--events", type=int, default=60_000, help="events of a flood or a history (60000)")
    parser.add_argument("--seconds", type=float, default=4, help="seconds of live events (4)")
    parser.add_argument(
        "--kind", choices=KINDS, help="events of this kind alone; otherwise all 17, as a hub mixes them"
    )
    parser.add_argument("--profile", type=Path, help="a folder for what cProfile sees of each process; rates suffer")
    parser.add_argument("--output", type=Path, default=_HERE / "results" / "latest", help="without .md and .json")
    leftovers.guard()
    arguments = parser.parse_args()
    chosen = [
        scenario
        for scenario in scenarios(arguments.events, arguments.seconds, arguments.kind)
        if all(word in scenario.name for word in arguments.only)
    ]
    if not chosen:
        parser.error("no scenario has all these words in its name")
    results: dict[str, dict[str, list[Result]]] = {scenario.name: {} for scenario in chosen}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder, ExitStack() as stack:
        house = House(stack, Path(folder))
        for round_ in range(arguments.rounds):
            for scenario in chosen:
                for contender in scenario.contenders:
                    if arguments.contender and contender not in arguments.contender:
                        continue
                    message = f"round {round_ + 1}/{arguments.rounds}, {scenario.name}: {contender}"
                    print(f"{time.monotonic() - began:4.0f} s  {message}", file=sys.stderr, flush=True)
                    profile = arguments.profile and str(arguments.profile / f"{message.replace('/', ' of ')}.prof")
                    result = house.measure(scenario, contender, profile)
                    results[scenario.name].setdefault(contender, []).append(result)
    table = [row for scenario in chosen for row in rows(scenario.name, scenario.budgets, results[scenario.name])]
    print(markdown(table))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.with_suffix(".md").write_text(markdown(table) + "\n")
    kept = {"machine": machine(), "arguments": vars(arguments) | {"output": None, "profile": None}, "rows": table}
    arguments.output.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
