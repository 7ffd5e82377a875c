"""A port that a test is given: nobody else's, in this process or another, until the process has ended."""

from __future__ import annotations

import subprocess
import sys

from tests.support.sockets import claim, free_port

_CHILD = """
from tests.support.sockets import free_port
print(*(free_port() for _ in range(200)), flush=True)
input()
"""


def test_ports_of_two_processes_at_once_are_all_different() -> None:
    others = [
        subprocess.Popen([sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        given = [int(port) for child in others if child.stdout for port in child.stdout.readline().split()]
        given += [free_port() for _ in range(200)]
        assert len(set(given)) == len(given) == 600  # of 12,000: 15 would be given twice by chance
        assert not claim(given[0])
    finally:
        for child in others:
            child.kill()
            child.communicate()
    assert claim(given[0])
