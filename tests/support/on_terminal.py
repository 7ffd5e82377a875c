"""Runs a program on a terminal of its own, or into pipes, and gives everything that it wrote."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support import preloaded
from tests.support.gateway_process import GATEWAY

_TIMEOUT_S = 60.0


def run(
    command: Sequence[str | bytes | Path],
    *,
    is_terminal: bool,
    folder: Path,
    env: Mapping[str, str] | None = None,
    until: str | None = None,
) -> tuple[int, str]:
    """Return the exit code and all output; with `until` the program is asked to end (SIGTERM) once it has said that."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    whole = {**clean, "COLUMNS": "4000", "TERM": "xterm", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8", **(env or {})}
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    if command[0] == GATEWAY and preloaded.suits(env or {}):
        end = Path(os.ttyname(theirs) if is_terminal else f"/proc/{os.getpid()}/fd/{theirs}")
        arguments = [os.fsdecode(part) for part in command]
        popen: subprocess.Popen[bytes] = preloaded.LOADER.fork(arguments, end, end, whole, folder)
    else:
        popen = subprocess.Popen(
            [os.fspath(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env=whole,
        )
    os.close(theirs)
    output, deadline = b"", time.monotonic() + _TIMEOUT_S
    try:
        while True:
            left = deadline - time.monotonic()
            assert left > 0, f"it does not end: {output!r}"
            if not select.select([ours], [], [], left)[0]:
                continue
            try:
                part = os.read(ours, 65_536)
            except OSError:  # the terminal's other side is closed
                break
            if not part:
                break
            output += part
            if until is not None and until.encode() in output:
                until = None
                popen.send_signal(signal.SIGTERM)
        code = popen.wait(_TIMEOUT_S)
    finally:
        os.close(ours)
        popen.kill()
        popen.wait()
    return code, output.decode("utf-8", "surrogateescape")
