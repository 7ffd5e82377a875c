"""Where `gateway tail` begins."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.broker.ports import time_of
from gateway.cli.tail import _begin
from gateway.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "ago"),
    [("30s", timedelta(seconds=30)), ("5m", timedelta(minutes=5)), ("2h", timedelta(hours=2)), ("7d", timedelta(7))],
)
def test_how_long_ago_is_a_time_that_readers_take(text: str, ago: timedelta) -> None:
    before = datetime.now(UTC)
    start = _begin(text)
    assert before <= time_of(start, position="a position") + ago <= datetime.now(UTC)


def test_what_is_longer_ago_than_any_time_begins_with_the_first() -> None:
    assert _begin("999999999999d") == "first"


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "-5m", "5y", "5min", "new", "first", "2026-11-22T13:32:25Z"])
def test_all_else_is_left_as_it_is(text: str) -> None:
    assert _begin(text) == text


def test_what_is_no_time_is_refused_in_words_of_our_own() -> None:
    with pytest.raises(ConfigurationError) as refused:
        time_of("yesterday", position="a position")
    remedy = "Give first, last, new, a position or an RFC 3339 time with an offset."
    assert str(refused.value) == f"start: 'yesterday' is no time that exists. {remedy}"
