"""What the tests need is said once, and what configures them is no setting of the gateway."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from gateway.settings.load import load_broker_settings
from gateway.settings.model import ENVIRONMENT_PREFIX
from tests.support import requirements
from tests.support.requirement import Requirement

ROOT: Final = Path(__file__).parents[3]
HERE: Final = Requirement("Something", "apt-get install something", lambda: "/usr/bin/something")
AWAY: Final = Requirement("Another", "apt-get install another", lambda: None)


def test_the_gateway_takes_no_variable_of_the_tests_for_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in requirements.VARIABLES:
        monkeypatch.setenv(name, "something")
    assert load_broker_settings(None).kind == "jetstream"


def test_every_variable_that_a_test_reads_is_listed_with_the_prefix() -> None:
    texts = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py") if "node_modules" not in path.parts]
    named = {name for text in texts for name in re.findall(r"\bMESOLIVE_TEST_[A-Z_]+[A-Z]\b", text)}
    assert named - {"MESOLIVE_TEST_RUN"} == requirements.VARIABLES.keys()
    assert not [name for text in texts for name in re.findall(rf"{ENVIRONMENT_PREFIX}TEST_\w+", text)]


def test_what_is_there_and_what_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "ALL", (HERE, AWAY))
    there, lacking = requirements.report()
    assert there == ["tests on: Something (/usr/bin/something)"]
    assert lacking == ["lacks Another: its tests are skipped; apt-get install another"]


def test_a_test_that_lacks_something_is_skipped_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    message = "no Another to test with: it is not found; apt-get install another"
    with pytest.raises(pytest.skip.Exception, match=message):
        AWAY.require()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=message):
        AWAY.require()
    HERE.require()
