from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.events.models import parts
from gateway.events.times import TICKS_PER_SECOND, canonical_time, seconds, ticks


@pytest.mark.parametrize(
    ("came", "kept"),
    [
        ("2026-11-22T13:32:25Z", "2026-11-22T13:32:25Z"),
        ("2026-11-22T13:32:25.0533061Z", "2026-11-22T13:32:25.0533061Z"),
        ("2026-11-22T13:32:25.10", "2026-11-22T13:32:25.10Z"),
        ("2026-11-22T13:32:25.123456789+00:00", "2026-11-22T13:32:25.123456789Z"),
        ("2026-11-22t13:32:25-00:00", "2026-11-22T13:32:25Z"),
        ("2026-12-31T23:30:00.1234567-01:00", "2027-01-01T00:30:00.1234567Z"),
        ("2026-01-01T00:30:00.10+01:00", "2025-12-31T23:30:00.10Z"),
        ("2024-02-28T20:00:00.0-05:30", "2024-02-29T01:30:00.0Z"),
        ("2026-03-01T00:00:00+00:01", "2026-02-28T23:59:00Z"),
        ("0001-01-01T00:00:00", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59.9999999Z"),
    ],
)
def test_a_time_is_kept_in_utc_with_every_digit(came: str, kept: str) -> None:
    assert canonical_time(came) == kept
    assert canonical_time(kept) == kept


@pytest.mark.parametrize(
    "wrong",
    [
        "2026-13-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-02-28T24:00:00Z",
        "2026-02-28T23:60:00Z",
        "2026-02-28T23:59:60Z",
        "2026-02-28",
        "2026-02-28T23:59Z",
        "2026-02-28T23:59:00.Z",
        "2026-02-28T23:59:00.0123456789Z",
        "2026-02-28T23:59:00+24:00",
        "2026-02-28T23:59:00+01:60",
        "2026-02-28T23:59:00+0100",
        "2026-02-28T23:59:00Z\n",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "0000-01-01T00:00:00Z",
        "２０２６-01-01T00:00:00Z",  # noqa: RUF001 - full-width digits are the point
        "",
    ],
)
def test_what_is_no_time_is_refused_in_words(wrong: str) -> None:
    with pytest.raises(ValueError, match="would be right"):
        canonical_time(wrong)


def test_ticks_count_100_ns_from_the_unix_epoch() -> None:
    assert ticks("1970-01-01T00:00:00Z") == 0
    assert ticks("1970-01-01T00:00:00.0000001Z") == 1
    assert ticks("1970-01-01T00:00:01.5Z") == 15_000_000
    assert ticks("1969-12-31T23:59:59.9999999Z") == -1
    assert ticks("2026-11-22T13:32:25.0533061Z") == _reference()
    assert ticks("1970-01-01T00:00:00.123456789Z") == 1_234_567
    assert ticks("1970-01-01T01:00:00+01:00") == 0
    assert parts.ticks is ticks


@settings(deadline=None)
@given(
    st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)),  # noqa: DTZ001 - hypothesis wants it
    st.integers(min_value=-23 * 60 - 59, max_value=23 * 60 + 59),
)
def test_offsets_agree_with_the_standard_library(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    kept = canonical_time(aware.isoformat())
    assert datetime.fromisoformat(kept) == aware
    assert kept.endswith("Z")
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    assert ticks(kept) == since // timedelta(microseconds=1) * 10


def _reference() -> int:
    since = datetime(2026, 11, 22, 13, 32, 25, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return int(since.total_seconds()) * 10_000_000 + 533_061


@pytest.mark.parametrize("time", ["1970-01-01T00:00:00Z", "2026-11-22T13:32:25.0533061Z", "1969-12-31T23:59:59.5Z"])
def test_seconds_are_those_of_the_ticks(time: str) -> None:
    assert list(seconds([time, "2026-11-22T13:32:26.5Z", time])) == [
        pytest.approx(ticks(time) / TICKS_PER_SECOND, abs=1e-6),
        pytest.approx(1_795_354_346.5, abs=1e-6),
        pytest.approx(ticks(time) / TICKS_PER_SECOND, abs=1e-6),
    ]
