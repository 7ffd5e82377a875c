"""Ports, whose a connection is, and silence on those of one process alone: as where a network is cut in two."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

_TCP: Final = Path("/proc/net/tcp")
_given: set[int] = set()


def ports_of(process: int) -> AbstractSet[int]:
    """Return the ports at a process's end of its connections over IPv4; asks the kernel (Linux), which takes 6 ms."""
    inodes = set()
    with suppress(OSError):  # the process is gone
        for handle in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                inodes.add(str(handle.readlink()))
    rows = (row.split() for row in _TCP.read_text("ascii").splitlines()[1:])
    return {int(row[1].partition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in inodes}


@dataclass
class Gates:
    """One for each connection over a wire, by its client's port: nothing passes one that is shut, either way.

    What was sent meanwhile comes after all once it opens: so does TCP after a cut.
    """

    ask: Callable[[int], AbstractSet[int]] = ports_of
    """Returns the ports of a process."""
    _gates: dict[int, asyncio.Event] = field(default_factory=dict)
    _owners: dict[int, dict[int, bool]] = field(default_factory=dict)
    """Whether a connection is a process's, by port and process, as far as somebody asked."""
    _severed: set[int] = field(default_factory=set)

    def begin(self, port: int) -> asyncio.Event:
        """Return the gate of a new connection: set while it is open."""
        gate = self._gates[port] = asyncio.Event()
        self._owners[port] = {}
        if not any(self.belongs(port, process) for process in self._severed):
            gate.set()
        return gate

    def end(self, port: int) -> None:
        """Forget a connection."""
        self._gates.pop(port, None)
        self._owners.pop(port, None)

    def belongs(self, port: int, process: int) -> bool:
        """Return whether a connection that stands is a process's.

        A connection keeps its owner, so the kernel is asked once. Asked at each look of a test that waits, it took
        all the time of the loop that carries the very bytes which the test waits for.
        """
        if port not in self._owners:
            return False
        if process not in self._owners[port]:
            found = self.ask(process)
            for each, owners in self._owners.items():
                owners[process] = each in found
        return self._owners[port][process]

    def sever(self, process: int) -> None:
        """Let nothing pass on present and coming connections of a process."""
        self._severed.add(process)
        for port, gate in self._gates.items():
            if self.belongs(port, process):
                gate.clear()

    def mend(self) -> None:
        """Let everything pass."""
        self._severed.clear()
        for gate in self._gates.values():
            gate.set()


def free_port() -> int:
    """Return a port that nobody listens on now, and that no other test process is given while this one lives.

    It is below those of outgoing connections. A broker binds its port seconds later, and again after each restart. By
    then another's connection could have it, or one that tries to reach the broker: a system may give it the very port
    that it asks for, and connect it to itself.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            if port not in _given and claim(port):
                _given.add(port)
                probe.bind(("127.0.0.1", port))
                return port


def claim(port: int) -> bool:
    """Claim a port until this process ends, and return whether no other test process of this user has it.

    The claim is a lock on the port's byte of one file: the system gives it up with the process, however that ends.
    """
    with suppress(BlockingIOError, PermissionError):
        fcntl.lockf(_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        return True
    return False


@cache
def _claims() -> int:
    """Return the open file of the claims; it stays open, as closing it would give all of them up."""
    return os.open(Path(tempfile.gettempdir()) / f"gateway-test-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)


@contextmanager
def silent() -> Iterator[int]:
    """Yield a port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1000)
        yield listener.getsockname()[1]


@contextmanager
def never_accepting() -> Iterator[int]:
    """Yield a port that takes no connection: its backlog is full."""
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
    """Yield a port that refuses connections."""
    yield free_port()


DEAD: Final = {"silent": silent, "never-accepting": never_accepting, "refusing": refusing}
"""What may be at an address where nothing is."""


@contextmanager
def dead_addresses(kind: str, count: int) -> Iterator[list[str]]:
    """Yield as many addresses, `host:port`, of one kind of DEAD, or names that nobody knows."""
    with ExitStack() as stack:
        if kind == "unknown":
            yield [f"no-such-host-{number}.invalid:4222" for number in range(count)]
        else:
            yield [f"127.0.0.1:{stack.enter_context(DEAD[kind]())}" for _ in range(count)]
