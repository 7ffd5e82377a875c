"""A real Prometheus and its promtool for tests: installed, out of Debian's package, or built with Go.

`MESOLIVE_TEST_PROMETHEUS` names the folder with both; else they are looked for in PATH, then fetched once into the
user's cache folder: Debian's package, unpacked there without root, or Go's modules (minutes). With CI set a missing
Prometheus fails; else the tests that need it are skipped, and say so.
"""

from __future__ import annotations

import fcntl
import functools
import json
import math
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pytest

from tests.support.requirement import Requirement, cache
from tests.support.sockets import free_port

_TOOLS: Final = ("prometheus", "promtool")
_VERSION: Final = "v0.316.0"
"""Of the Go module; it is Prometheus 3.16."""
_READY: Final = 30.0
"""Seconds that it may take to serve; it takes one."""
_FETCH: Final = 900.0
"""Seconds that fetching may take: Go builds it in a few minutes."""
FETCHING: Final = pytest.mark.timeout(_FETCH + 180)
"""Marks tests of which the first may fetch it."""


@functools.cache
def tool(name: str) -> Path:
    """Return the path of `prometheus` or `promtool`; skips, or fails in CI, where it cannot be had."""
    given = os.environ.get("MESOLIVE_TEST_PROMETHEUS")
    if given:
        return Path(given, name)
    if all(map(shutil.which, _TOOLS)):
        return Path(str(shutil.which(name)))
    return _fetched() / name


def _fetched() -> Path:
    """Return the folder of both, after fetching them where they are not there; whole or not at all."""
    cached = cache()
    folder = cached / "prometheus"
    cached.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    with (cached / "prometheus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be about to do the same
        for fetch in (_from_debian, _from_go):
            if folder.exists():
                break
            with tempfile.TemporaryDirectory(dir=cached) as new:
                problem = fetch(Path(new))
                if problem is None:
                    Path(new, "bin").rename(folder)
                else:
                    problems.append(problem)
    if not folder.exists():
        PROMETHEUS.lacking("; ".join(problems))
    return folder


def _from_debian(folder: Path) -> str | None:
    """Unpack Debian's package; return what hinders."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return "no apt-get"
    problem = _run(folder, "apt-get", "download", "prometheus")
    for package in folder.glob("prometheus_*.deb"):
        problem = _run(folder, "dpkg-deb", "-x", package.name, "unpacked")
        if problem is None:
            (folder / "unpacked" / "usr" / "bin").rename(folder / "bin")
    return problem


def _from_go(folder: Path) -> str | None:
    """Build both from Go's modules; return what hinders."""
    if shutil.which("go") is None:
        return "no Go"
    modules = [f"github.com/prometheus/prometheus/cmd/{name}@{_VERSION}" for name in _TOOLS]
    return _run(folder, "go", "install", "-tags", "remove_all_sd", *modules, GOBIN=str(folder / "bin"))


def _run(folder: Path, *command: str, **env: str) -> str | None:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **env}, capture_output=True, check=False, timeout=_FETCH
    )
    return None if done.returncode == 0 else f"{command[0]}: {done.stderr.decode(errors='replace')[-1000:]}"


def _where() -> str | None:
    given = os.environ.get("MESOLIVE_TEST_PROMETHEUS")
    if given:
        return given
    if all(map(shutil.which, _TOOLS)):
        return str(shutil.which("prometheus"))
    fetched = cache() / "prometheus"
    if fetched.exists() or shutil.which("apt-get") or shutil.which("go"):
        return str(fetched)
    return None


PROMETHEUS: Final = Requirement(
    "Prometheus", "apt-get install prometheus", _where, lambda: [tool(name) for name in _TOOLS]
)


@dataclass(frozen=True)
class Sample:
    """One series of an answer, and its values, oldest first."""

    labels: Mapping[str, str]
    values: Sequence[float]


class Prometheus:
    """A server that scrapes `targets` each second, under the job `gateway`; use it as a context."""

    def __init__(self, folder: Path, rules: Sequence[Path] = ()) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self._rules = rules
        self._log_file = folder / "prometheus.log"
        self._process: subprocess.Popen[bytes] | None = None

    def scrape(self, targets: Sequence[str]) -> None:
        """Scrape these (`host:port`) from now on."""
        self._write(targets)
        self._get("/-/reload", b"")

    def query(self, expression: str, at: float) -> list[Sample]:
        """Evaluate at one moment (Unix time); raises AssertionError with what is wrong with the expression."""
        return [
            Sample(one["metric"], [float(one["value"][1])])
            for one in self._ask("query", query=expression, time=f"{at:.3f}")
        ]

    def range(self, expression: str, begin: float, end: float, step: float = 0.5) -> list[Sample]:
        """Evaluate each `step` seconds of a while, its end among them."""
        begin = end - math.ceil((end - begin) / step) * step
        found = self._ask("query_range", query=expression, start=f"{begin:.3f}", end=f"{end:.3f}", step=f"{step}")
        return [Sample(one["metric"], [float(value) for _, value in one["values"]]) for one in found]

    def _ask(self, path: str, **arguments: str) -> list[dict[str, Any]]:
        body = urllib.parse.urlencode(arguments).encode()
        try:
            return list(json.loads(self._get(f"/api/v1/{path}", body))["data"]["result"])
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{arguments['query']}: {error.read().decode()}") from None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(())
        command = [
            tool("prometheus"),
            f"--config.file={self.folder}/prometheus.yaml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--web.enable-lifecycle",
            "--scrape.discovery-reload-interval=100ms",  # hidden, 5 s else
        ]
        with self._log_file.open("wb") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _get(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(self.url + path, body, timeout=30) as answer:  # noqa: S310 - our own server
            return bytes(answer.read())

    def _is_ready(self) -> bool:
        try:
            self._get("/-/ready")
        except OSError:
            return False
        return True

    def _wait(self) -> None:
        deadline = time.monotonic() + _READY
        while not self._is_ready():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Prometheus did not start:\n{self._log_file.read_text()[-4000:]}")
            time.sleep(0.05)

    def _write(self, targets: Sequence[str]) -> None:
        config = {  # JSON is YAML
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(file) for file in self._rules],
            "scrape_configs": [{"job_name": "gateway", "static_configs": [{"targets": list(targets)}]}],
        }
        (self.folder / "prometheus.yaml").write_text(json.dumps(config))
