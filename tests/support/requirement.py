"""What tests need beside the project's own Python environment: where it is, and the line that installs it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import pytest

CACHE: Final = "mesolive-gateway"


@dataclass(frozen=True)
class Requirement:
    """A program of somebody else's that tests run."""

    name: str
    remedy: str
    """The line that installs it."""
    look: Callable[[], str | None]
    """Returns where it comes from, without fetching anything, or None where it cannot be had."""
    fetch: Callable[[], object] = lambda: None
    """Fetches what can be fetched once for all runs; calls `lacking` where that fails."""

    def require(self) -> None:
        """Skip the test where it is not there; with CI set, fail it."""
        if self.look() is None:
            self.lacking("it is not found")

    def lacking(self, problem: str) -> NoReturn:
        """Skip the test that needs it; with CI set, fail it."""
        message = f"no {self.name} to test with: {problem}; {self.remedy}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def cache() -> Path:
    """Return the folder in which fetched programs are kept for later runs; it may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / CACHE


OPENSSL: Final = Requirement("OpenSSL", "apt-get install openssl", lambda: shutil.which("openssl"))
