"""A Prometheus that cannot be had is said in words that help."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.prometheus_server import FETCHING, tool

pytestmark = FETCHING

MESSAGE = "no apt-get; no Go; apt-get install prometheus"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine with nothing on it."""
    tool.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MESOLIVE_TEST_PROMETHEUS", raising=False)
    monkeypatch.delenv("CI", raising=False)
    yield
    tool.cache_clear()


def test_without_prometheus_its_tests_are_skipped() -> None:
    with pytest.raises(pytest.skip.Exception, match=MESSAGE):
        tool("promtool")


def test_in_ci_a_missing_prometheus_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=MESSAGE):
        tool("promtool")


def test_a_folder_that_is_named_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MESOLIVE_TEST_PROMETHEUS", str(tmp_path))
    assert tool("promtool") == tmp_path / "promtool"
