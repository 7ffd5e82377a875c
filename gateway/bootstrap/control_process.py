"""The control plane's process as its parent sees it: it also reports its counters."""

from __future__ import annotations

import socket

from gateway.bootstrap.child_process import LISTENS, READY, ChildLog, ChildProcess
from gateway.telemetry.control_counts import ControlCounters, decode_counts
from gateway.telemetry.logs import get_logger


class ControlProcess(ChildProcess):
    """That process, kept running."""

    def __init__(self, about: ChildLog, listener: socket.socket, settings: bytes) -> None:
        super().__init__(about, "gateway.bootstrap.control_main", listener, settings)
        self._counted = ControlCounters()
        """By the processes that have ended."""
        self._counts = ControlCounters()
        """By the one that runs."""

    @property
    def counts(self) -> ControlCounters:
        """What the control plane has counted since the gateway began."""
        return self._counts.after(self._counted)

    def ended(self) -> None:
        """Log which changes left no record, and keep the counts."""
        if lost := self._counts.audit_waiting:
            get_logger().error("audit records lost: the control plane ended before it stored them", changes=lost)
        self._counted, self._counts = self.counts, ControlCounters()

    async def on_message(self, line: bytes) -> None:
        """Take over the counters that the process reports."""
        if line in {LISTENS, READY}:
            return
        try:
            self._counts = decode_counts(line)
        except ValueError as error:
            get_logger().error("unreadable message from the control plane", error=str(error))
