"""Ends whatever a test run started and left behind, also when the run itself is killed.

Every process that starts under a run inherits the variable `MESOLIVE_TEST_RUN`, whoever starts it: a broker, a gateway,
its control plane, a tool. A watchdog beside each test process waits for that one to end, however it ends (a signal, a
crash, a time limit), then sends SIGKILL to every process that bears the run's mark. Parent-death signals would not do:
they come when the *thread* that started a process ends, and they do not reach grandchildren.

A run that ends by itself must leave nothing for the watchdog: what is still there then is named, and fails the run. It
reads `/proc`: on systems without one nothing is found.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

MARK: Final = "MESOLIVE_TEST_RUN"
_PROCESSES: Final = Path("/proc")
_QUIET_SCANS: Final = 3
"""Looks in a row that must find nothing: a process may have been about to start another one."""
_SCAN_INTERVAL_S: Final = 0.1
_WATCHDOG: Final = "import sys; from tests.support.leftovers import watch_over; watch_over(sys.argv[1])"
_ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Leftover:
    """A process of a run."""

    pid: int
    command: str
    worker: str
    """The part of the mark that names the test process that started it; empty for the controller's own."""


def guard(worker: str = "") -> str:
    """Mark what this process starts from now on, start its watchdog, and return the mark."""
    outer = os.environ.get(MARK)
    name = worker or uuid4().hex[:12]
    mark = f"{outer}/{name}" if outer else name
    os.environ[MARK] = mark
    _start_watchdog(mark)
    return mark


def find(mark: str) -> Iterator[Leftover]:
    """Yield the processes that bear `mark` or one below it, but for this one; zombies bear none."""
    sought = f"{MARK}={mark}".encode()
    for folder in _PROCESSES.glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # it has just ended, or belongs to another user
            continue
        for variable in environment:
            if (variable == sought or variable.startswith(sought + b"/")) and int(folder.name) != os.getpid():
                yield Leftover(int(folder.name), command, variable[len(sought) + 1 :].decode())


def kill(mark: str) -> None:
    """SIGKILL every process that bears `mark`, until several looks in a row find none."""
    quiet = 0
    while quiet < _QUIET_SCANS:
        found = list(find(mark))
        quiet = 0 if found else quiet + 1
        for leftover in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(leftover.pid, signal.SIGKILL)
        time.sleep(_SCAN_INTERVAL_S)


def watch_over(mark: str) -> None:
    """Wait until standard input ends, as it does with the process at its other end, and kill what is left then."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C is meant for the run
    sys.stdin.buffer.read()
    kill(mark)


def _start_watchdog(mark: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    reading, _writing = os.pipe()  # the writing end is open for as long as this process lives, and in no child
    with os.fdopen(reading, "rb") as end:
        subprocess.Popen(
            [sys.executable, "-c", _WATCHDOG, mark],
            stdin=end,
            cwd=_ROOT,
            env=environment,
            start_new_session=True,
        ).returncode = 0  # it outlives this process, so nobody waits for it
