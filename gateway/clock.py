"""The wall clock, as records carry it."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now_text() -> str:
    """Return the time as RFC 3339 in UTC, to the millisecond, by this machine's clock."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
