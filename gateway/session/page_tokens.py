"""The hub's continuation tokens: followed as long as they lead to something new, and never without end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.session.types import Content, Page

_MAX_STALLS: Final = 32
"""Pages that may bring nothing before their continuation token is given up."""
_MAX_UNNUMBERED: Final = 10_000
"""Pages in a row that may bring nothing with a sequence above the last one."""


class PageTokens:
    """The tokens that were followed since the history was requested without one."""

    __slots__ = ("_furthest", "_stalls", "_tokens", "_unnumbered", "next")

    def __init__(self, since: int) -> None:
        """No token was followed yet; the history was requested for what comes after `since`."""
        self._furthest = since
        self.next: str | None = None
        """The token to go on with; None where there is none."""
        self._stalls = self._unnumbered = 0
        self._tokens: set[str] = set()

    def read(self, page: Page, contents: Sequence[Content]) -> bool:
        """Look at a page; return True where it does not lead on.

        A token is followed as long as it leads to something new. Where it does not, it may not return, and not without
        end.
        """
        highest = next((content.sequence for content in reversed(contents) if content.sequence is not None), 0)
        if highest > self._furthest:
            self._furthest, self._stalls, self._unnumbered = highest, 0, 0
            self._tokens.clear()
            self.next = page.token
        else:
            self._stalls, self._unnumbered = (self._stalls, self._unnumbered + 1) if contents else (self._stalls + 1, 0)
            is_known = page.token == page.request.token or page.token in self._tokens
            is_worn = is_known or self._stalls > _MAX_STALLS or self._unnumbered > _MAX_UNNUMBERED
            self.next = None if is_worn else page.token
        if self.next is None:
            return True
        self._tokens.add(self.next)
        return False
