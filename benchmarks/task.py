"""What one measured process is asked to do, what it says of itself, and how it talks with the hub's source."""

from __future__ import annotations

import json
import resource
import time
import urllib.request
from typing import Any

import msgspec

CALLBACK = "OnOrderUpdate"
PATH = "/hubs/event/v1"
CHECKPOINT_BYTES = 5_700
"""Of a live account's checkpoint: 512 remembered identities and little else."""


class Task(msgspec.Struct, frozen=True):
    """One run of one contender."""

    contender: str
    hub: str
    broker: str
    """`kafka` or `jetstream`."""
    server: str
    events: int
    account: str
    """A name that no earlier run had."""
    rate: float = 0
    profile: str | None = None
    """Where to write what cProfile saw."""
    collector: str | None = None
    """Where spans go; None traces nothing."""
    ratio: float = 0
    """Of the messages that are traced."""


class Result(msgspec.Struct):
    """What came of it."""

    events: int
    seconds: float
    cpu: float
    """Seconds of CPU of the process, all threads, user and system."""
    commits: int = 0
    pushes: int | None = None
    """Pushes that were taken; the other events had to come from the history."""
    latencies: list[float] = []
    """Seconds from the push to the answer of the commit, of each event."""


class Stopwatch:
    """Time and own CPU since `start`."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin to count, at zero."""
        self.began, self._cpu = time.monotonic(), _cpu()

    def result(self, events: int, *, since: float | None = None, **more: Any) -> Result:  # noqa: ANN401 - of Result
        """Return what was measured; `since` is a monotonic time to count from instead."""
        return Result(events, time.monotonic() - (since or self.began), _cpu() - self._cpu, **more)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def ask(hub: str, what: str, body: object = None) -> Any:  # noqa: ANN401 - any JSON
    """Ask the source something; it answers at once."""
    data = None if what == "told" else msgspec.json.encode(body)
    with urllib.request.urlopen(f"{hub}/{what}", data=data) as answer:  # noqa: S310 - our own
        return json.load(answer)
