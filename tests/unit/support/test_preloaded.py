"""A program that is forked from loaded modules: as one that was started afresh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.freezing import freeze
from tests.support.gateway_process import GATEWAY
from tests.support.on_terminal import run
from tests.support.preloaded import LOADER, Loader, suits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are adopted by prctl(2)")


class Ended(NamedTuple):
    """What a command left: its exit code and its output."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def loader() -> Iterator[Loader]:
    loader = Loader()
    yield loader
    loader.end()


def forked(loader: Loader, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    out, err = folder / "out", folder / "err"
    out.touch()
    err.touch()
    return loader.fork([str(GATEWAY), *arguments], out, err, {**os.environ, "NO_COLOR": "1", **(env or {})}, folder)


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (["--version"], {}),
        (["simulate", "--user", "no key"], {}),
        (["no-such-command"], {}),
        (["check"], {"GATEWAY_HUB__URL": "no url"}),
        (["check", "--config", "in-its-folder.yaml"], {}),
    ],
)
def test_a_fork_writes_and_ends_as_the_command_does(
    loader: Loader, tmp_path: Path, arguments: list[str], env: dict[str, str]
) -> None:
    (tmp_path / "in-its-folder.yaml").write_text("hub: {no_such_setting: 1}\n")
    fork = forked(loader, tmp_path, *arguments, env=env)
    got = Ended(fork.wait(60), (tmp_path / "out").read_text(), (tmp_path / "err").read_text())
    environment = {**os.environ, "NO_COLOR": "1", **env}
    afresh = subprocess.run(
        [GATEWAY, *arguments], check=False, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert got == Ended(afresh.returncode, afresh.stdout, afresh.stderr)
    assert got.out or got.err


def test_a_fork_is_a_child_that_can_be_frozen_and_killed(loader: Loader, tmp_path: Path) -> None:
    fork = forked(loader, tmp_path, "simulate", "--user", "alpha=key", "--port", "0")
    try:
        assert fork.pid != os.getpid()
        assert fork.poll() is None
        freeze(fork)  # it waits for a child that has stopped
    finally:
        fork.kill()
    assert fork.wait(60) == -signal.SIGKILL


def test_the_end_of_the_loader_ends_no_program(tmp_path: Path) -> None:
    loader = Loader()
    fork = forked(loader, tmp_path, "simulate", "--user", "alpha=key", "--port", "0")
    loader.end()
    try:
        assert fork.poll() is None
        fork.send_signal(signal.SIGTERM)
    finally:
        assert fork.wait(60) in {0, -signal.SIGTERM}  # it may not have begun to handle signals


def test_only_variables_that_python_does_not_read_suit() -> None:
    assert suits({"GATEWAY_HUB__URL": "x"})
    assert not suits({"TZ": "UTC"})
    assert not suits({"GATEWAY_HUB__URL": "x", "SSL_CERT_FILE": "x"})


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("arguments", [("--help",), ("check",), ("accounts", "list", "--url", "no url")])
def test_on_a_terminal_and_into_a_pipe_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], is_terminal: bool
) -> None:
    ended = []
    for is_allowed in (True, False):
        monkeypatch.setattr(LOADER, "is_allowed", is_allowed)
        ended.append(run([GATEWAY, *arguments], is_terminal=is_terminal, folder=tmp_path))
    forked, afresh = ended
    assert forked == afresh
    assert forked[1]
