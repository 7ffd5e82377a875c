"""The hub's continuation tokens: followed as long as they lead to something new, and never without end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.session.types import Content, Page

_MAX_STALLS: Final = 32
"""Pages that may bring nothing before their continuation token is given up."""
_MAX_REPEATS: Final = 2
"""Pages that may be equal to earlier ones before it is: each costs as much as a page of new events."""
_MAX_UNNUMBERED: Final = 10_000
"""Pages in a row that may bring nothing with a sequence above the last one."""


class PageTokens:
    """The tokens that were followed since the history was requested without one."""

    __slots__ = (
        *("_furthest", "_last_first", "_pages", "_repeats", "_stalls", "_tokens", "_unnumbered"),
        *("lowest", "next"),
    )

    def __init__(self, since: int) -> None:
        """No token was followed yet; the history was requested for what comes after `since`."""
        self._furthest = since
        self.next: str | None = None
        """The token to go on with; None where there is none."""
        self.lowest: int | None = None
        """The lowest sequence of the pages that `begins_at` was asked about; None while it was about none."""
        self._last_first: int | None = None
        self._stalls = self._unnumbered = self._repeats = 0
        self._tokens: set[str] = set()
        self._pages: set[int] = set()  # what stands for each that brought nothing with a sequence above the last one

    def read(self, page: Page, contents: Sequence[Content]) -> bool:
        """Look at a page; return True where it does not lead on.

        A token is followed as long as it leads to something new. Where it does not, it may not return, and not without
        end. A page that was shown before is nothing new: some hubs look at no token, and yet give a new one each time.
        """
        highest = next((content.sequence for content in reversed(contents) if content.sequence is not None), 0)
        if highest > self._furthest:
            self._furthest, self._stalls, self._unnumbered, self._repeats = highest, 0, 0, 0
            self._tokens.clear()
            self._pages.clear()
            self.next = page.token
        else:
            self._stalls, self._unnumbered = (self._stalls, self._unnumbered + 1) if contents else (self._stalls + 1, 0)
            self._repeats += bool(contents) and not self._is_new(contents)
            is_known = page.token == page.request.token or page.token in self._tokens
            brings_nothing = (
                self._stalls > _MAX_STALLS or self._unnumbered > _MAX_UNNUMBERED or self._repeats > _MAX_REPEATS
            )
            self.next = None if is_known or brings_nothing else page.token
        if self.next is None:
            return True
        self._tokens.add(self.next)
        return False

    def begins_at(self, first: int) -> int | None:
        """Note that the page just read begins with `first`; return where the history does, None while it may be lower.

        A hub need not sort its pages: a page that follows may show what is below this one. Only a page that begins
        above the page before it shows that they are sorted.
        """
        may_go_down = self.next is not None and (self._last_first is None or first <= self._last_first)
        self._last_first = first
        self.lowest = first if self.lowest is None else min(first, self.lowest)
        return None if may_go_down else self.lowest

    def _is_new(self, contents: Sequence[Content]) -> bool:
        """Note a page without a sequence above the last one; return whether it was not shown before."""
        shown = hash(tuple((content.sequence, content.identity) for content in contents))
        is_new = shown not in self._pages
        self._pages.add(shown)
        return is_new
