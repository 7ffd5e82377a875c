"""Times as text: RFC 3339 in UTC with every fraction digit that the hub wrote, never rounded to a float or to µs.

.NET writes 0 to 7 fraction digits (a tick is 100 ns) and `Z`, an offset, or neither, which then means UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

TIME_PATTERN: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z$"
"""The canonical form, as the schemas give it."""

TICKS_PER_SECOND: Final = 10_000_000
"""A tick is 100 ns, the resolution of .NET's DateTime."""


def canonical_time(text: str) -> str:
    """Return the same instant in UTC, marked `Z`, with the fraction digits as they came.

    Raises ValueError, with a clear error, for anything but a time of the years 0001 to 9999.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("a time such as 2026-11-22T13:32:25.0533061Z would be right")
    whole, fraction, zone = match.groups()
    moment = _moment(whole)
    if zone is None or zone in _UTC:
        return f"{whole[:10]}T{whole[11:]}{fraction or ''}Z"
    hours, minutes = int(zone[1:3]), int(zone[4:6])
    if hours >= _HOURS or minutes >= _MINUTES:
        raise ValueError(f"the offset {zone} does not exist; one below 24:00 would be right")
    offset = timedelta(hours=hours, minutes=minutes)
    try:
        moment = moment - offset if zone[0] == "+" else moment + offset
    except OverflowError:
        raise ValueError("the time in UTC is outside the years 0001 to 9999; one within would be right") from None
    return f"{moment.isoformat()}{fraction or ''}Z"


def ticks(time: str) -> int:
    """Return the 100 ns units from the Unix epoch to `time`; digits beyond the seventh are cut off.

    Raises ValueError for what `canonical_time` refuses.
    """
    if not time.endswith("Z"):
        time = canonical_time(time)
    match = _TIME.fullmatch(time)
    if match is None:
        raise ValueError("a time such as 2026-11-22T13:32:25.0533061Z would be right")
    whole, fraction, _ = match.groups()
    since = _moment(whole) - _EPOCH
    seconds = since.days * 86_400 + since.seconds
    return seconds * TICKS_PER_SECOND + (int(fraction[1:8].ljust(7, "0")) if fraction else 0)


def second_of(ticks_: int) -> str:
    """Return the whole second of a number of ticks as canonical times begin: `2026-11-22T13:32:25`.

    What is before the year 1 or after the year 9999 gives the first second or the last.
    """
    return (_EPOCH + timedelta(seconds=min(max(ticks_ // TICKS_PER_SECOND, _FIRST), _LAST))).isoformat()


def seconds(times: Iterable[str]) -> Iterator[float]:
    """Yield the seconds from the Unix epoch to canonical times, to about a microsecond: for statistics alone.

    Those that follow each other within a second cost little.
    """
    whole, since = "", 0.0
    for time in times:
        if time[:19] != whole:
            whole = time[:19]
            since = (_moment(whole) - _EPOCH).total_seconds()
        yield since + float(time[19:-1] or 0)


_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)
_UTC: Final = frozenset({"Z", "z", "+00:00", "-00:00"})
_HOURS: Final = 24
_MINUTES: Final = 60
_FIRST: Final = -62_135_596_800
_LAST: Final = 253_402_300_799
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - all arithmetic here is in UTC, without zones


def _moment(whole: str) -> datetime:
    try:
        return datetime.fromisoformat(whole)
    except ValueError as error:
        raise ValueError(f"{error}; a date and a time that exist would be right") from None
