"""The messages of the replica's process to the one that answers probes and scrapers, over a pipe between the two.

The loop that serves events sends a beat twice a second, which also has whether the process is ready, and the numbers on
request. No client's data reaches this side: the other process requests with one word.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Literal, NoReturn, TypeAlias

import msgspec

from gateway.bootstrap.child_process import ChildLog, ChildProcess
from gateway.replica.containment import report_unexpected
from gateway.telemetry.control_counts import ControlCounters
from gateway.telemetry.replica_metrics import ReplicaMetrics

ASK: Final = b"numbers\n"
"""The request for the numbers."""
HEAD: Final = struct.Struct(">cI")
"""Of each frame to the other process: its kind and its length."""
BEAT: Final = b"b"
"""Carries one byte: whether the process is ready."""
NUMBERS: Final = b"n"
"""Carries `Scraped`, pickled: both processes are the same program, and no other process has the pipe."""
FAILED: Final = b"f"
"""The numbers could not be gathered: the log has the reason."""
Scraped: TypeAlias = tuple[ReplicaMetrics | None, ControlCounters]
"""What the replica and the control plane have counted."""
EACH: Final = 0.5
"""Seconds between two beats."""


class ListenerTls(msgspec.Struct, frozen=True):
    """The files of a listener's TLS, as its settings name them; without a certificate it speaks plain HTTP."""

    cert_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None


class Task(msgspec.Struct, frozen=True):
    """The parameters of the process that answers probes and scrapers."""

    shards: int
    per_account: bool
    log_format: Literal["auto", "console", "json"]
    log_level: str
    replica: str
    """The name of the gateway in log lines."""
    tls: ListenerTls = ListenerTls()


class Heartbeat(ChildProcess):
    """That process, and the reports to it."""

    def __init__(
        self,
        about: ChildLog,
        listener: socket.socket,
        task: Task,
        is_ready: Callable[[], bool],
        numbers: Callable[[], Awaitable[Scraped]],
    ) -> None:
        super().__init__(about, "gateway.bootstrap.monitor_main", listener, msgspec.json.encode(task, enc_hook=str))
        self._is_gateway_ready = is_ready
        self._numbers = numbers

    async def beat_forever(self) -> NoReturn:
        """Report again and again that this loop is not stuck."""
        while True:
            self.beat()
            await asyncio.sleep(EACH)

    def beat(self) -> None:
        """Send a beat now, unless the process has not yet read the last one."""
        if self.writer is not None and not self.writer.transport.get_write_buffer_size():
            self._send(BEAT, bytes([self._is_gateway_ready()]))

    async def on_message(self, line: bytes) -> None:
        """Answer with the numbers."""
        if line != ASK:
            self.beat()  # it has just begun
            return
        try:
            numbers = await self._numbers()
            answer = NUMBERS, await asyncio.to_thread(pickle.dumps, numbers)  # 14 ms for 5,000 accounts
        except Exception as error:  # noqa: BLE001 - one scrape fails, and events go on
            report_unexpected(None, "metrics", error)
            answer = FAILED, b""
        self._send(*answer)

    def _send(self, kind: bytes, payload: bytes) -> None:
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(HEAD.pack(kind, len(payload)) + payload)
