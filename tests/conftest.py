"""What every run has: it says at its beginning what it lacks, and nothing that it started outlives it."""

from __future__ import annotations

import os
import time
from typing import Final

import pytest

from tests.support import leftovers, preloaded, requirements

_MARK: Final = pytest.StashKey[str]()
_GRACE_S: Final = 5.0
"""What processes may take to be gone after the last test that used them."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Guard this test process: the controller, or one of its workers; in CI, refuse to run where something lacks."""
    if os.environ.get("CI") and not hasattr(config, "workerinput"):
        _, lacking = requirements.report()
        if lacking:
            raise pytest.UsageError("in CI every test must run\n" + "\n".join(lacking))
    config.stash[_MARK] = leftovers.guard(getattr(config, "workerinput", {}).get("workerid", ""))
    preloaded.LOADER.is_allowed = True


def pytest_report_header() -> list[str]:
    """Say once what the tests run on, and what is not there."""
    there, lacking = requirements.report()
    return [*there, *lacking]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that left processes behind, and kill them; the controller looks once its workers have ended."""
    preloaded.LOADER.end()
    if hasattr(session.config, "workerinput"):
        return
    mark = session.config.stash[_MARK]
    deadline = time.monotonic() + _GRACE_S
    while (left := list(leftovers.find(mark))) and time.monotonic() < deadline:
        time.sleep(0.1)
    if left:
        reporter = session.config.pluginmanager.getplugin("terminalreporter")
        for leftover in left:
            message = f"left behind by {leftover.worker or 'the run'}: {leftover.pid} {leftover.command[:200]}"
            if reporter is not None:
                reporter.write_line(message, red=True)
        leftovers.kill(mark)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
