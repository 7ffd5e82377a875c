"""Freezing a process as SIGSTOP does, and knowing that it is frozen."""

from __future__ import annotations

import os
import signal
import subprocess


def freeze(process: subprocess.Popen[bytes]) -> None:
    """Stop a child: its sockets stay open and nobody answers.

    The signal is on its way when `kill` returns; another core may run the process on for a moment. So this waits until
    it has stopped.
    """
    process.send_signal(signal.SIGSTOP)
    if process.returncode is None:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
