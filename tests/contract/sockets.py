"""Ports, whose a connection is, and silence on those of one process alone: as where a network is cut in two."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
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


@contextmanager
def silent() -> Iterator[int]:
    """Give a port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1000)
        yield listener.getsockname()[1]


@contextmanager
def never_accepting() -> Iterator[int]:
    """Give a port that takes no connection: its backlog is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@contextmanager
def refusing() -> Iterator[int]:
    """Give a port that refuses connections."""
    yield free_port()


DEAD: Final = {"silent": silent, "never-accepting": never_accepting, "refusing": refusing}
"""What may be at an address where nothing is."""


@contextmanager
def dead_addresses(kind: str, count: int) -> Iterator[list[str]]:
    """Give as many addresses, `host:port`, of one kind of DEAD, or names that nobody knows."""
    with ExitStack() as stack:
        if kind == "unknown":
            yield [f"no-such-host-{number}.invalid:4222" for number in range(count)]
        else:
            yield [f"127.0.0.1:{stack.enter_context(DEAD[kind]())}" for _ in range(count)]
