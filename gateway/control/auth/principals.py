"""The callers of the API, and what they may do: a role, and the accounts that are in scope."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

_PATTERN: Final = re.compile(r"[A-Za-z0-9_*-]{1,63}")
"""What a pattern of names may hold: what a name may, and `*`."""
_MOST_PATTERNS: Final = 100


class Role(Enum):
    """What a token allows."""

    VIEWER = "viewer"
    """To look."""
    OPERATOR = "operator"
    """May also change the desired state."""


@dataclass(frozen=True, slots=True)
class AccountScope:
    """Which accounts a caller may look at and change."""

    patterns: tuple[str, ...] | None = None
    """Names, in which `*` stands for any letters; None for all accounts."""

    @property
    def is_all(self) -> bool:
        """Whether every account is in scope."""
        return self.patterns is None

    def __contains__(self, account: str) -> bool:
        return self.patterns is None or any(_matches(pattern, account) for pattern in self.patterns)


EVERY_ACCOUNT: Final = AccountScope()


def read_scope(text: str) -> AccountScope:
    """Return the scope that patterns with commas between them stand for; raises ValueError, without the text."""
    patterns = tuple(text.split(","))
    if len(patterns) > _MOST_PATTERNS:
        raise ValueError(f"names more than {_MOST_PATTERNS} patterns")
    for place, pattern in enumerate(patterns, 1):
        if not _PATTERN.fullmatch(pattern):
            raise ValueError(
                f"its pattern {place} must be of 1 to 63 letters, digits, underscores, hyphens and `*`, "
                "with commas between patterns and no spaces"
            )
    return AccountScope(patterns)


def _matches(pattern: str, name: str) -> bool:
    """Return whether `name` is one that `pattern` stands for, in time linear in both."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == first
    *middle, last = rest
    if not name.startswith(first):
        return False
    place = len(first)
    for part in middle:
        found = name.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return len(name) - place >= len(last) and name.endswith(last)


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller."""

    name: str
    role: Role
    accounts: AccountScope = field(default=EVERY_ACCOUNT)
    """Those that they may look at, and change where they are an operator."""


LOCAL: Final = Principal("local", Role.OPERATOR)
"""Any caller on this machine, where there are no tokens."""
