"""How errors show foreign values: short, and never one that may be a secret."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Final

_SHOWN_CHARS: Final = 200
_LOOKED_AT: Final = 1000
"""Parts of a value that are looked at."""
_DEEP_PARTS: Final = 3
"""Parts from which on an absolute path is one, and not a password that begins with a slash."""


def shown_value(value: object) -> str:
    """Return a value as an error shows it: at most 200 characters, however large or deep it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = _SHOWN_CHARS
    text = short.repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def quoted(value: object) -> str:
    """Return a part of a value as an error shows it, or words for it where it may hold a secret."""
    return "one of them" if may_hold_secret(value) else shown_value(value)


def may_hold_secret(value: object) -> bool:
    """Return whether a text in a value looks like a URL with a user, a password or a query."""
    waiting = [value]
    for _ in range(_LOOKED_AT):
        if not waiting:
            return False
        one = waiting.pop()
        if isinstance(one, str) and ("@" in one or "?" in one):
            return True
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set):
            waiting += one
    return True  # a longer text would not be read


def shown_path(path: Path) -> str:
    """Return a path that a setting names, unless it may be a secret, written where the name of a file belongs."""
    parts = len(path.parts)
    is_path = parts >= _DEEP_PARTS if path.is_absolute() else parts > 1 and _exists(path.parent)
    if is_path or _exists(path):
        return str(path)
    return "what it names (not shown: it may be a secret in the place of a file's name)"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or a NUL in it
        return False
