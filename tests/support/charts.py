"""Helm on the gateway's chart: a real helm, from wherever it can be had, and what it makes of the chart.

`MESOLIVE_TEST_HELM` names it; else it is looked for in PATH, then built once with Go into the user's cache folder. With
CI set a missing Helm fails; else the tests that need it are skipped, and say so.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.requirement import Requirement, cache

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "helm" / "mesolive-gateway"
_MODULE: Final = "helm.sh/helm/v3/cmd/helm@v3.22.0"
_BUILD: Final = 1_800.0
"""Seconds that building may take: 4 minutes on two idle cores."""
KUBERNETES: Final = "1.33.0"
"""What Helm takes the cluster to be: one that Go built from a module believes in 1.20."""
NEEDED: Final[dict[str, Any]] = {
    "hub": {"url": "https://api.example.com"},
    "broker": {"servers": ["nats://nats:4222"]},
}
"""The least values."""


@functools.cache
def helm() -> Path:
    """Return the path of Helm; skips, or fails in CI, where it cannot be had."""
    given = os.environ.get("MESOLIVE_TEST_HELM") or shutil.which("helm")
    if given:
        return Path(given)
    built = _built()
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "helm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be about to do the same
        if not built.exists():
            _build(built)
    return built


def _build(built: Path) -> None:
    problem = "no Go"
    if shutil.which("go") is not None:
        with tempfile.TemporaryDirectory(dir=built.parents[1]) as new:
            env = {**os.environ, "GOBIN": new, "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
            command = ["go", "install", _MODULE]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=_BUILD)
            if done.returncode == 0:
                built.parent.mkdir(exist_ok=True)
                Path(new, "helm").rename(built)
                return
            problem = done.stderr[-1000:]
    HELM.lacking(problem)


def _built() -> Path:
    return cache() / "helm" / "helm"


def _where() -> str | None:
    given = os.environ.get("MESOLIVE_TEST_HELM") or shutil.which("helm")
    return given or (str(_built()) if _built().exists() or shutil.which("go") else None)


HELM: Final = Requirement(
    "Helm",
    "install Helm 3, or Go 1.24 or later, which builds it once in 4 minutes",
    _where,
    helm,
)


def run(*arguments: str | Path, values: dict[str, Any] | None = None, seconds: float = 60) -> tuple[int, str, str]:
    """Run Helm with these values beside the arguments; give its exit code and what it wrote."""
    given = ["--values", "-"] if values is not None else []
    done = subprocess.run(
        [helm(), *arguments, *given],
        input=json.dumps(values or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    return done.returncode, done.stdout, done.stderr


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    """Put values together as Helm does: sections are joined, the later value wins."""
    whole: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            old = whole.get(name)
            whole[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return whole


def template(values: dict[str, Any]) -> str:
    """Render the chart, with what is needed besides `values`; fails in Helm's words."""
    code, out, errors = run(
        "template",
        "gateway",
        CHART,
        "--kube-version",
        KUBERNETES,
        "--namespace",
        "trading",
        values=merged(NEEDED, values),
    )
    assert code == 0, errors
    return out


def objects(values: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Render the chart; return the objects by kind and name."""
    found = [one for one in yaml.safe_load_all(template(values)) if one is not None]
    named = {(one["kind"], one["metadata"]["name"]): one for one in found}
    assert len(named) == len(found)
    return named


def refusal(values: dict[str, Any]) -> str:
    """Return the words in which Helm refuses to render these values."""
    command = ("template", "gateway", CHART, "--kube-version", KUBERNETES)
    code, _, errors = run(*command, values=merged(NEEDED, values))
    assert code != 0
    return errors
