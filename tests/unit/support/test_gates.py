"""Whose a connection over a wire is: asked of the kernel once, and right for each connection that has its port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

import pytest

from tests.support.sockets import Gates, ports_of

HERE, THERE = 1, 2
_CONNECT = "import socket, sys; c = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); c.recv(1)"


class Kernel:
    """Knows the ports of processes, and counts how often it is asked."""

    def __init__(self, ports: dict[int, AbstractSet[int]]) -> None:
        self.ports = ports
        self.asked = 0

    def __call__(self, process: int) -> AbstractSet[int]:
        self.asked += 1
        return self.ports.get(process, frozenset())


def test_who_looks_again_and_again_does_not_ask_the_kernel_again() -> None:
    kernel = Kernel({HERE: {10, 11}, THERE: {12}})
    gates = Gates(kernel)
    for port in (10, 11, 12):
        gates.begin(port)

    for _ in range(3000):  # a minute of looks at 20 ms
        assert [gates.belongs(port, HERE) for port in (10, 11, 12)] == [True, True, False]
        assert [gates.belongs(port, THERE) for port in (10, 11, 12)] == [False, False, True]
    assert kernel.asked == 2

    kernel.ports[THERE] = {12, 13}
    gates.begin(13)
    assert gates.belongs(13, THERE)
    assert kernel.asked == 3


def test_a_port_that_another_process_has_now_is_that_ones() -> None:
    kernel = Kernel({HERE: {10}})
    gates = Gates(kernel)
    gates.begin(10)
    assert gates.belongs(10, HERE)
    gates.end(10)
    assert not gates.belongs(10, HERE)

    kernel.ports = {THERE: {10}}
    gates.begin(10)
    assert not gates.belongs(10, HERE)
    assert gates.belongs(10, THERE)


def test_what_is_severed_is_shut_and_nothing_else_also_what_comes_later() -> None:
    kernel = Kernel({HERE: {10, 12}, THERE: {11, 13}})
    gates = Gates(kernel)
    present = {port: gates.begin(port) for port in (10, 11)}
    gates.sever(HERE)
    coming = {port: gates.begin(port) for port in (12, 13)}

    assert {port: gate.is_set() for port, gate in (present | coming).items()} == {
        10: False,
        11: True,
        12: False,
        13: True,
    }
    gates.mend()
    assert all(gate.is_set() for gate in (present | coming).values())


@contextmanager
def _another(listening: socket.socket) -> Iterator[tuple[int, int]]:
    """Let another process connect; give its number and its port."""
    port = listening.getsockname()[1]
    with subprocess.Popen([sys.executable, "-c", _CONNECT, str(port)]) as other:
        accepted, (_, client) = listening.accept()
        with accepted:
            yield other.pid, client


@pytest.mark.skipif(sys.platform != "linux", reason="whose a port is is asked of Linux")
def test_the_kernel_knows_whose_a_connection_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, _another(listening) as (other, theirs):
        own = socket.create_connection(listening.getsockname())
        with own, listening.accept()[0]:
            ours = own.getsockname()[1]
            assert ours in ports_of(os.getpid())
            assert theirs not in ports_of(os.getpid())
            assert theirs in ports_of(other)
            assert ours not in ports_of(other)
    assert theirs not in ports_of(other)  # it is gone
