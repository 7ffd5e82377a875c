"""Ports, whose a connection is, and silence on those of one process alone: as where a network is cut in two."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_TCP: Final = Path("/proc/net/tcp")
_given: set[int] = set()


def is_of(process: int, port: int) -> bool:
    """Tell whether a process has the end at `port` of a connection over IPv4; asks the kernel (Linux)."""
    rows = (row.split() for row in _TCP.read_text("ascii").splitlines()[1:])
    inodes = {f"socket:[{row[9]}]" for row in rows if int(row[1].partition(":")[2], 16) == port}
    with suppress(OSError):  # the process is gone
        for handle in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                if str(handle.readlink()) in inodes:
                    return True
    return False


@dataclass
class Gates:
    """One for each connection over a wire, by its client's port: nothing passes one that is shut, either way.

    What was sent meanwhile comes after all once it opens: so does TCP after a cut.
    """

    _gates: dict[int, asyncio.Event] = field(default_factory=dict)
    _severed: set[int] = field(default_factory=set)

    def begin(self, port: int) -> asyncio.Event:
        """Give the gate of a new connection: set while it is open."""
        gate = self._gates[port] = asyncio.Event()
        if not any(is_of(process, port) for process in self._severed):
            gate.set()
        return gate

    def end(self, port: int) -> None:
        """Forget a connection."""
        self._gates.pop(port, None)

    def sever(self, process: int) -> None:
        """Let nothing pass on present and coming connections of a process."""
        self._severed.add(process)
        for port, gate in self._gates.items():
            if is_of(process, port):
                gate.clear()

    def mend(self) -> None:
        """Let everything pass."""
        self._severed.clear()
        for gate in self._gates.values():
            gate.set()


def free_port() -> int:
    """Give a port that nobody listens on now, never the same one twice, below those of outgoing connections.

    A broker binds its port seconds later, and again after each restart. By then another's connection could have it, or
    one that tries to reach the broker: a system may give it the very port that it asks for, and connect it to itself.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            if port not in _given:
                probe.bind(("127.0.0.1", port))
                _given.add(port)
                return port
