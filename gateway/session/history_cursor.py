"""Where the paging of the history stands: the next request, what the answers prove, and what they may not.

Each pass over the history begins just before the last event that is known to be final, the anchor, and checks that the
history still has it. So the cursor detects a hub that started again, another user's key and a history that lost its
beginning, and distinguishes them from holes, which prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from gateway.errors import Diverged
from gateway.events.event import Event
from gateway.events.times import ticks
from gateway.session.checkpoint import Anchor
from gateway.session.hub_clock import HubClock, Moment
from gateway.session.page_tokens import PageTokens
from gateway.session.types import Content, Page, PageRequest

_LOOKS: Final = 8
"""How often the anchor must be missed, in addition to for how long, before the history counts as another."""


class CursorPhase(Enum):
    """What a pass over the history looks for."""

    ANCHOR = "anchor"
    """The cursor looks for the anchor."""
    ORIGIN = "origin"
    """The anchor is gone: the cursor looks whether the history begins after it, or is another."""
    FORWARD = "onward"
    """The cursor reads new events."""


class HistoryCursor:
    """The position of one pass over the history, from the anchor on."""

    def __init__(self, clock: HubClock, was_published: Callable[[Content], bool] = lambda _: False) -> None:
        """`clock` has how long a condition has lasted, `was_published` whether an event certainly was published."""
        self._clock = clock
        self._was_published = was_published
        self._missed: tuple[Moment, int] | None = None
        self._behind_since: Moment | None = None
        self.requires_overlap = False
        """Whether every page begins with the last event of the one before."""
        self.begin(0, None)

    def on_connected(self) -> None:
        """Note a new connection: the time for which the former one lagged, or missed the anchor, does not count."""
        self._missed = self._behind_since = None

    def begin(self, marked: int, anchor: Anchor | None) -> None:
        """Start again at `anchor`, the last event known to be final; everything up to `marked` is."""
        self._marked, self._anchor = marked, anchor
        self.phase = CursorPhase.ANCHOR if marked or anchor else CursorPhase.FORWARD
        self.reached = marked
        """The highest sequence taken in."""
        self.all_final = True
        """Whether all that was taken in was final when it was read: only then may `verified` follow."""
        self.pending: Anchor | None = None
        """The last event that is final once it is clear that no later page shows what is missing before it."""
        self.is_unordered = False
        """Whether a page showed what is below events of the page before: only the last page ends the holes."""
        self.origin: int | None = None
        """Where the history begins that has lost the anchor."""
        self.passed: tuple[int, int] | None = None
        """After which sequence, and up to which, the hub could not give what it has."""
        self.new_incarnation: Anchor | None = None
        """The event at `marked`, where the account began there without having seen it."""
        self.waits = False
        """Whether to ask again only makes sense later."""
        self._imposter: Anchor | None = None
        self._go_to(max(0, (anchor.sequence if anchor else marked) - 1))

    def _go_to(self, since: int) -> None:
        self.request = PageRequest(since)
        self._tokens = PageTokens(since)

    def is_behind(self, latest: int, verified: int) -> bool:
        """Return whether the hub has less than what is `verified`: for its grace that may be a lag.

        Raises Diverged when it stays so.
        """
        if latest >= verified:
            self._behind_since = None
            return False
        if self._behind_since is None:
            self._behind_since = self._clock.now
        if self._clock.has_passed(self._behind_since):
            raise Diverged(
                f"the hub's latest event is {latest}, but {verified} is published already: "
                "the hub started again, or the key is another user's. If that is meant, reset the checkpoint"
            )
        return True

    # Turning pages --------------------------------------------------------------------------------------

    def read(self, page: Page, contents: Sequence[Content]) -> bool:
        """Look at the answer to `request`; return True where it does not lead on."""
        return self._tokens.read(page, contents)

    @property
    def leads_on(self) -> bool:
        """Whether the page that was read last has a token for the next."""
        return self._tokens.next is not None

    def turn(self) -> None:
        """Ask for the next page."""
        if self._tokens.next is not None:
            self.request = PageRequest(self.request.since, self._tokens.next)
        else:
            self._go_to(self.reached)

    def pass_over(self, since: int, through: int) -> None:
        """Go on behind `through`: the hub cannot give what follows `since`."""
        self.passed = (self.passed[0] if self.passed is not None else since, through)
        self.reached = max(self.reached, through)
        self._go_to(self.reached)

    def forget_token(self) -> None:
        """Go on from the last event taken in: the hub no longer takes the cursor's token.

        While the anchor is looked for, nothing is: the same question is asked again from its beginning.
        """
        self._go_to(self.reached if self.phase is CursorPhase.FORWARD else self.request.since)

    def has_seam(self, contents: Sequence[Content], last: Anchor | None) -> bool:
        """Return whether this page may not join what was taken before it, which ended with `last`, verified.

        Where sequences are sparse that is nothing. But between two pages a history can lose its beginning, up to
        beyond the first of them: only a page that shows `last` again proves that nothing after it is gone.
        """
        if not self.all_final or last is None or last.sequence != self.reached or self.reached == self._marked:
            return False
        sequences = (content.sequence for content in contents if content.sequence is not None)
        return next((sequence for sequence in sequences if sequence > self.reached), 0) > self.reached + 1

    # The anchor -----------------------------------------------------------------------------------------

    def check(self, contents: Sequence[Content], *, ended: bool) -> bool:
        """Look for the anchor in a page; return True where the page goes on from it and can be taken in.

        Else the cursor asks for something else now (or `waits` first), or for more of the same. Only where it has
        `ended` and still looks for the ORIGIN is there nothing to ask for: the whole history is empty.

        Raises Diverged when the history is not the one that the checkpoint was made from.
        """
        self.waits = False
        first = next((content.sequence for content in contents if content.sequence is not None), None)
        anchor = self._anchor
        if anchor is None:
            if first is not None or ended:
                self.new_incarnation = _adopted(contents, first) if first == self._marked else None
                self.phase = CursorPhase.FORWARD
            return self.phase is CursorPhase.FORWARD
        if self.phase is CursorPhase.ANCHOR:
            return self._find_anchor(anchor, contents, first, ended=ended)
        begins_at = None if first is None else self._tokens.begins_at(first)
        if begins_at is None:
            return False
        if begins_at <= anchor.sequence:
            self._miss(anchor, begins_at)
            return False
        self._missed = None
        self.origin = begins_at
        self.read_forward()
        return False

    def _find_anchor(self, anchor: Anchor, contents: Sequence[Content], first: int | None, *, ended: bool) -> bool:
        """Look for the anchor among all entries of its number: a hub may use one twice, and show one page after page.

        Another event of that number proves as much where it was published too. Raises Diverged where none does.
        """
        entries = [content for content in contents if content.sequence == anchor.sequence]
        if all(anchor.contradicts(Anchor.of(entry)) and not self._was_published(entry) for entry in entries):
            self._imposter = self._imposter or next((Anchor.of(entry) for entry in entries), None)
            is_over = ended or any((content.sequence or 0) > anchor.sequence for content in contents)
            if self._imposter is not None and is_over:
                raise Diverged(
                    f"event {anchor.sequence} was {anchor} when it was published and is {self._imposter} in the hub's "
                    "history now: the hub started again, or the key is another user's. If that is meant, reset the "
                    "checkpoint"
                )
            if self._imposter is None and is_over and (first is None or self._tokens.begins_at(first) is not None):
                self._look_for_origin()
            return False
        self._missed = None
        # What is before it may have come into view since; or pages that came before this one have what is behind it.
        if anchor.sequence > self._marked or self._tokens.lowest is not None:
            self.read_forward()
            return False
        self.phase = CursorPhase.FORWARD
        return True

    def _miss(self, anchor: Anchor, earlier: int) -> None:
        """History has what is before the anchor but not the anchor: once may be a hiccup."""
        since, looks = self._missed or (self._clock.now, 0)
        self._missed = (since, looks + 1)
        if self._clock.has_passed(since) and looks >= _LOOKS:
            raise Diverged(
                f"the hub's history has event {earlier} but no longer event {anchor.sequence} ({anchor}), "
                "which was published from it: the hub started again, or the key is another user's. "
                "If that is meant, reset the checkpoint"
            )
        self.begin(self._marked, anchor)
        self.waits = True

    def _look_for_origin(self) -> None:
        self.phase = CursorPhase.ORIGIN
        self._go_to(0)

    def read_forward(self) -> None:
        """Read new events: there is no anchor to find."""
        self.phase = CursorPhase.FORWARD
        self._go_to(self.reached)


def is_newer(content: Content, anchor: Anchor | None) -> bool:
    """Return whether `content` certainly happened after `anchor`."""
    if not isinstance(content, Event) or anchor is None or anchor.time is None:
        return False
    return ticks(content.time) > ticks(anchor.time)


def _adopted(contents: Sequence[Content], sequence: int) -> Anchor:
    return next(Anchor.of(content) for content in contents if content.sequence == sequence)
