"""A test run that ends, however it ends, takes with it whatever it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import leftovers, preloaded
from tests.support.gateway_process import ROOT, Process, process, until

RUN = """
import asyncio
from tests.support.gateway_process import house

async def test_that_never_ends(tmp_path):
    async with house(tmp_path, accounts=1, prefill=10) as made:
        gateway = await made.gateway()
        await gateway.wait_for_log("control plane is listening")
        await made.acknowledged(1)
        print("working", flush=True)
        await asyncio.sleep(600)
"""
LEAK = """
import subprocess

def test_that_forgets_what_it_started():
    subprocess.Popen(["sleep", "600"], start_new_session=True).returncode = 0
"""
PYTEST = (sys.executable, "-m", "pytest", "-s", "-q", "-p", "tests.conftest", "-c", ROOT / "pyproject.toml")


def stat(pid: int) -> tuple[str, int]:
    """Return a process's state and its parent, as the kernel tells them; raises OSError where it is gone."""
    state, parent, *_ = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(") ")[2].split()
    return state, int(parent)


def children(root: int) -> dict[int, str]:
    """Return every process below one: their command by their number."""
    parents, commands = dict[int, int](), dict[int, str]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            parents[int(folder.name)] = stat(int(folder.name))[1]
            commands[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    below, found = {root}, dict[int, str]()
    while more := {pid: commands[pid] for pid, parent in parents.items() if parent in below and pid in commands}:
        found |= more
        below = set(more)
    return found


def is_there(pid: int) -> bool:
    """Return whether a process lives; one that has ended and was not yet asked for its exit code does not."""
    try:
        return stat(pid)[0] != "Z"
    except OSError:
        return False


async def at_work(run: Process) -> dict[int, str]:
    """Wait until the run's test has everything at work, and return the processes of it."""
    if "xdist" in run.name:
        await until(lambda: has_control(run), "it is at work")
    else:
        await run.wait_for_output("working")
    found = children(run.popen.pid)
    for part, least in (("nats-server", 1), ("gateway.bootstrap.control_main", 1), (preloaded.__file__, 3)):
        # at least three: the loader, and its forks, which are the hub and the gateway
        assert sum(part in command for command in found.values()) >= least, f"{least} of {part} among {found}"
    return found


def has_control(run: Process) -> bool:
    return any("gateway.bootstrap.control_main" in command for command in children(run.popen.pid).values())


@pytest.mark.parametrize(
    ("options", "blow"),
    [
        pytest.param((), signal.SIGKILL, id="a killed run"),
        pytest.param((), signal.SIGTERM, id="a run that is asked to end"),
        pytest.param(("-o", "timeout=20", "--timeout-method=thread"), None, id="a run that takes too long"),
        pytest.param(("-n", "2"), signal.SIGKILL, id="a killed run of several workers"),
    ],
)
async def test_what_a_run_started_ends_with_it(
    options: tuple[str, ...], blow: signal.Signals | None, tmp_path: Path
) -> None:
    (tmp_path / "test_run.py").write_text(RUN)
    name = "xdist" if "-n" in options else "run"
    async with process(tmp_path, *PYTEST, *options, tmp_path / "test_run.py", name=name, cwd=ROOT) as run:
        started = await at_work(run)
        if blow is not None:
            run.signal(blow)
        await run.ended()
    await until(lambda: not any(map(is_there, started)), lambda: f"all of {started} end")


async def test_what_a_worker_started_ends_when_the_worker_is_killed(tmp_path: Path) -> None:
    (tmp_path / "test_run.py").write_text(RUN)
    command = (*PYTEST, "-n", "1", "--max-worker-restart", "0", tmp_path / "test_run.py")
    async with process(tmp_path, *command, name="xdist", cwd=ROOT) as run:
        started = await at_work(run)
        worker = next(pid for pid in children(run.popen.pid) if "gateway.bootstrap.control_main" in str(children(pid)))
        os.kill(worker, signal.SIGKILL)
        assert await run.ended() == pytest.ExitCode.TESTS_FAILED
    await until(lambda: not any(map(is_there, started)), lambda: f"all of {started} end")


async def test_a_run_that_leaves_something_behind_has_failed_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "test_run.py").write_text(LEAK)
    async with process(tmp_path, *PYTEST, tmp_path / "test_run.py", name="run", cwd=ROOT) as run:
        assert await run.ended() == pytest.ExitCode.TESTS_FAILED
    assert "1 passed" in run.stdout
    left = next(line for line in run.stdout.splitlines() if "left behind by the run" in line)
    assert left.endswith("sleep 600")
    assert not is_there(int(left.split()[-3]))


def test_nothing_of_others_is_found() -> None:
    mark = os.environ[leftovers.MARK]
    with subprocess.Popen(["sleep", "60"], env={**os.environ, leftovers.MARK: f"{mark}x"}) as other:
        try:
            assert other.pid not in {found.pid for found in leftovers.find(mark)}
            assert other.pid in {found.pid for found in leftovers.find(f"{mark}x")}
        finally:
            other.kill()
