"""Node.js for the SignalR client that Microsoft wrote: installed once from its lock file, beside its program."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.support.requirement import Requirement

FOREIGN: Final = Path(__file__).parents[1] / "foreign"


def _where() -> str | None:
    node = shutil.which("node")
    return node if node and shutil.which("npm") else None


def _install() -> None:
    wanted, installed = FOREIGN / "package-lock.json", FOREIGN / "node_modules" / ".installed"
    with wanted.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once install once
        if not installed.exists() or installed.read_bytes() != wanted.read_bytes():
            command = [str(shutil.which("npm")), "ci", "--ignore-scripts"]
            done = subprocess.run(command, cwd=FOREIGN, check=False, timeout=300, capture_output=True, text=True)
            if done.returncode != 0:
                NODE.lacking(f"npm could not install the client: {done.stderr[-1000:]}")
            shutil.copyfile(wanted, installed)


NODE: Final = Requirement("Node.js with npm", "apt-get install nodejs npm", _where, _install)


def node() -> str:
    """Return the path of Node.js once the client is installed; skips, or fails in CI, where that cannot be."""
    found = _where()
    if found is None:
        NODE.lacking("node or npm is not found")
    _install()
    return found
