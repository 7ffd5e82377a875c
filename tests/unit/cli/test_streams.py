"""Standard streams that are full, closed, or no longer read: a line at the most, never a traceback or a dump."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

_MAIN: Final = "import sys; from gateway.cli.main import main; sys.argv[0] = 'gateway'; main()"
TOKEN: Final = ("token", "--name", "ops", "--role", "viewer")
NOWHERE: Final = ("accounts", "--url", "http://127.0.0.1:1")


def run(arguments: tuple[str, ...], redirects: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command, with its streams as a shell redirects them."""
    line = f'exec "$0" -c "$1" "${{@:2}}" {redirects}'
    return subprocess.run(
        ["bash", "-c", line, sys.executable, _MAIN, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is needed")
@pytest.mark.parametrize("arguments", [("--version",), TOKEN])
def test_a_full_disk_is_a_line_and_a_failure(arguments: tuple[str, ...]) -> None:
    done = run(arguments, ">/dev/full")
    assert done.returncode == 1
    assert done.stderr == "gateway: standard output cannot be written to (No space left on device): it lacks lines\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is needed")
def test_an_error_that_nobody_can_read_keeps_its_exit_code() -> None:
    assert run(NOWHERE, "2>/dev/full").returncode == 1
    assert run(("accounts", "--url", "nowhere"), "2>/dev/full").returncode == 2


@pytest.mark.parametrize("arguments", [("--version",), TOKEN])
def test_a_reader_that_is_gone_is_no_success_and_no_traceback(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _MAIN, *arguments], stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("arguments", "code"), [(("--version",), 0), (TOKEN, 0), (NOWHERE, 1), (("accounts", "--url", "nowhere"), 2)]
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_command_ends_as_ever_with_streams_closed(arguments: tuple[str, ...], code: int, closed: str) -> None:
    """Else a socket takes their number, and libuv ends the process with SIGABRT where that is closed."""
    done = run(arguments, closed)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("cancel",), ("start",)])
def test_an_argument_that_is_no_utf_8_is_a_line(command: tuple[str, ...]) -> None:
    argument = os.fsdecode(b"\xff")
    done = run(("replay", *command, argument, "--url", "http://127.0.0.1:1"))
    assert done.returncode == 1
    assert done.stderr.startswith("gateway: http://127.0.0.1:1 does not answer as a gateway's control plane: ")
    assert done.stderr.count("\n") == 1
