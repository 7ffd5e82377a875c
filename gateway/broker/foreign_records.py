"""Records that stand where a gateway writes, and need not be a gateway's: any client with the permission can err."""

from __future__ import annotations

import json
from typing import Any


def parsed_object(value: bytes) -> dict[str, Any]:
    """Return the JSON object that `value` is; an empty one where it is something else."""
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def name_of(key: bytes | None) -> str | None:
    """Return a record's key as text; None where it has none, or one that is no UTF-8."""
    try:
        return None if key is None else key.decode()
    except UnicodeDecodeError:
        return None
