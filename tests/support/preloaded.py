"""Gateways that start from a process in which the gateway's modules are loaded already.

Half of what a short scene costs was the import of 800 modules, in each of its programs (measured: 0.47 s of CPU of 1.1
for `gateway run`). So each test process keeps one process that has imported them and does nothing else, and a program
is a fork of that. From there on all is as if it had been started afresh: it has a process of its own, its arguments,
its environment, its files and its folder, it is a child of the test process, and it ends as Python ends. What is not
as usual: `/proc/PID/cmdline` is the loader's, and memory is shared until it is written.

The programs of tests with the fixture `started_afresh`, and those of the demo, are started by the installed command: a
missing import would be seen there, and memory and variables are as they are for users.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_SET_CHILD_SUBREAPER: Final = 36
"""prctl(2)."""
_MODULES: Final = (
    *(
        f"gateway.cli.{command}"
        for command in ("run", "simulate", "check", "tail", "verify", "accounts", "replay", "schemas")
    ),
    *(f"gateway.bootstrap.{kind}" for kind in ("kafka", "jetstream")),
    "aiokafka",
    "nats",
    "uvloop",
)


class Fork(subprocess.Popen[bytes]):
    """A program that is a child of this process, though another one forked it."""

    def __init__(self, pid: int, command: Sequence[str]) -> None:
        """Set what `Popen` sets once it has started a child, and start none."""
        self.pid = pid
        self.args = command
        self.returncode = None
        self.stdin = self.stdout = self.stderr = None
        self._child_created = True
        self._waitpid_lock = threading.Lock()


class Loader:
    """The process that has the modules; it starts with the first program, and ends with this process."""

    def __init__(self) -> None:
        self.is_allowed = False
        """Whether programs may be forked: in a test process, but not in tools that use `tests.support`."""
        self._process: subprocess.Popen[str] | None = None

    def fork(self, command: Sequence[str], out: Path, err: Path, env: Mapping[str, str], cwd: Path) -> Fork:
        """Start `gateway` with the arguments that follow the first one; its output goes to these files, now open."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__],  # -P: nothing is imported from beside it
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={name: value for name, value in env.items() if not name.startswith("GATEWAY_")},
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"argv": list(command), "out": str(out), "err": str(err), "env": dict(env), "cwd": str(cwd)}
        _adopt_orphans(adopts=True)  # for this moment: a later orphan, of a killed gateway, is no child of this process
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            pid = self._process.stdout.readline()
        finally:
            _adopt_orphans(adopts=False)
        assert pid, f"the process that has the modules ended; its traceback is on standard error: {self._process.args}"
        return Fork(int(pid), command)

    def end(self) -> None:
        """End it; what it forked goes on."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


LOADER: Final = Loader()
"""Of this test process."""


def suits(env: Mapping[str, str]) -> bool:
    """Return whether a program with these variables may be forked; any but settings may be read while Python starts."""
    return LOADER.is_allowed and sys.platform == "linux" and all(name.startswith("GATEWAY_") for name in env)


def serve() -> None:
    """Load the modules, then fork a program for each line of standard input."""
    for module in ("gateway.cli.main", *_MODULES):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    while line := sys.stdin.readline():
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid == 0:
                os.close(reading)
                return _become(json.loads(line), writing)
            os._exit(0)
        os.close(writing)
        os.waitpid(between, 0)  # from now on the program is a child of the test process
        sys.stdout.write(f"{os.read(reading, 20).decode()}\n")
        sys.stdout.flush()
        os.close(reading)
    return None


def _become(request: dict[str, object], begun: int) -> None:
    """Run the program; once it has its files open, its process id is written to the descriptor `begun`."""
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[:] = request["argv"]
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["out"], os.O_WRONLY),
        (2, request["err"], os.O_WRONLY),
    ):
        opened = os.open(str(path), flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.write(begun, str(os.getpid()).encode())
    os.close(begun)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    gc.unfreeze()
    main = importlib.import_module("gateway.cli.main").main
    sys.exit(main())


def _adopt_orphans(*, adopts: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_CHILD_SUBREAPER, int(adopts), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


if __name__ == "__main__":
    serve()
