"""Freezing a process as SIGSTOP does, and knowing that it is frozen."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


def freeze(process: subprocess.Popen[bytes]) -> None:
    """Stop a child: its sockets stay open and nobody answers.

    The signal is on its way when `kill` returns; another core may run the process on for a moment. So this waits until
    it has stopped.
    """
    process.send_signal(signal.SIGSTOP)
    if process.returncode is None:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


class Freezable:
    """A server that is a child process, and can be frozen for a while."""

    process: subprocess.Popen[bytes] | None

    def freeze(self) -> None:
        """SIGSTOP: its sockets stay open and nobody answers."""
        assert self.process is not None
        freeze(self.process)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep it frozen for as long as the context lasts."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()
