"""The reading of the history: page after page from the anchor, until the session is live, and again with each audit."""

from __future__ import annotations

from gateway.session.history_cursor import CursorPhase
from gateway.session.lifecycle import SessionLifecycle
from gateway.session.page_merge import PageMerger
from gateway.session.parts import SessionParts
from gateway.session.push_merge import PushMerger
from gateway.session.types import Content, Page, PageRequest, State


class HistoryReader:
    """Takes each page, decides what to ask for next, and lets the session go live when history has met the pushes."""

    __slots__ = (
        "_cursor",
        "_doubtful",
        "_latest",
        "_lifecycle",
        "_merger",
        "_outbox",
        "_overlap",
        "_pushes",
        "_settings",
        "_waiting",
    )

    def __init__(
        self, parts: SessionParts, merger: PageMerger, lifecycle: SessionLifecycle, pushes: PushMerger
    ) -> None:
        """`merger` queues what a page shows, the cursor among `parts` has the next one."""
        self._outbox = parts.outbox
        self._waiting = parts.waiting
        self._doubtful = parts.doubtful
        self._cursor = parts.cursor
        self._merger = merger
        self._overlap = parts.overlap
        self._latest = parts.latest
        self._lifecycle = lifecycle
        self._pushes = pushes
        self._settings = parts.settings

    def audit(self) -> None:
        """Begin to look at the history from `verified` again; `on_latest` comes just before.

        Also where the hub's latest is verified: what has no sequence may have come after it.
        """
        if self._lifecycle.state is State.LIVE:
            self._lifecycle.begin_audit()

    @property
    def wants_audit(self) -> bool:
        """Whether an audit should come soon: something was pushed that only the history may show whole."""
        return self._lifecycle.state is State.LIVE and not self._lifecycle.is_auditing and self._doubtful.wants_look

    def wants(self) -> PageRequest | None:
        """Return the page to request now; None when there is none to request, or no room for it."""
        lifecycle = self._lifecycle
        if self._latest.must_be_asked or not lifecycle.is_subscribed or self._outbox.queue.is_full:
            return None
        return self._cursor.request if lifecycle.is_paging else None

    def wants_next(self, token: str | None) -> PageRequest | None:
        """Return the page that `wants()` will most likely give after an answer that ends with `token`.

        None where there may be none: at the end of the history, where each page must begin with the last event of
        the one before, while live, and where the broker does not take what waits as fast as it comes.
        """
        if token is None or self._cursor.requires_overlap or 2 * self._pushes.bytes > self._settings.buffer_bytes:
            return None
        return PageRequest(self._cursor.request.since, token) if self._lifecycle.state is State.CATCHING_UP else None

    def on_page(self, page: Page, now: float) -> bool:
        """Take the answer to `wants()`; return True when asking again only makes sense later.

        Raises Diverged when the history is not the one that the checkpoint was made from.
        """
        with self._lifecycle.distrusting_what_diverged():
            return self._on_page(page, now)

    def _on_page(self, page: Page, now: float) -> bool:
        cursor, lifecycle, latest = self._cursor, self._lifecycle, self._latest
        if page.request != cursor.request or latest.answered_at is None or not lifecycle.is_paging:
            return False  # the question has changed since: the answer is to another one
        contents = page.in_order()
        ended = cursor.read(page, contents)
        if cursor.phase is not CursorPhase.FORWARD:
            asks = self._merger.look_for_anchor(contents, ended=ended, latest=latest.sequence)
            if asks is not None:
                lifecycle.is_auditing = lifecycle.is_auditing and not asks
                if cursor.waits and lifecycle.state is State.LIVE:
                    lifecycle.doubt()  # until it is clear whose history this is, nothing more is published
                return asks
        elif not lifecycle.is_trusted and self._outbox.anchor is None:
            self._merger.check_without_anchor(contents)
        if lifecycle.trust():
            self._pushes.reconsider()
        self._merger.end_holes(contents)
        if cursor.has_seam(contents, self._outbox.anchor):
            cursor.requires_overlap = True
            cursor.begin(self._outbox.marked, self._outbox.anchor)
            return False
        return self._read_on(page, contents, now, ended=ended)

    def _read_on(self, page: Page, contents: list[Content], now: float, *, ended: bool) -> bool:
        """Take in a page of a history that is proven; return True when asking again only makes sense later."""
        cursor, lifecycle = self._cursor, self._lifecycle
        before = cursor.reached
        stopped = self._merger.merge(contents, live=lifecycle.state is State.LIVE)
        reached = cursor.reached
        has_room = not page.is_full or page.request.since >= before  # else the anchor may have taken all of it
        paused = stopped or (ended and reached == before and has_room)
        if paused and not stopped:
            self._latest.on_all_shown()
            self._doubtful.on_look(reached)
        self._latest.on_page(now, self._settings.grace)
        if stopped or (cursor.requires_overlap and cursor.all_final and reached > before):
            cursor.begin(self._outbox.marked, self._outbox.anchor)
        else:
            cursor.turn()
        self._pushes.reconsider()
        if lifecycle.state is State.LIVE:
            lifecycle.is_auditing = not paused
        elif self._overlap.is_reached(reached, paused=paused):
            self._go_live(now)
            return True
        return paused

    def _go_live(self, now: float) -> None:
        self._lifecycle.state = State.LIVE
        self._lifecycle.is_on_probation = not self._overlap.is_proven
        for content in self._waiting.release():
            self._outbox.place(content)
        self._waiting.restart(now)
        self._pushes.drain(now)
        self._pushes.reconsider()

    @property
    def may_pass(self) -> int | None:
        """The last sequence that may be passed where the hub cannot give it; None until its history is proven."""
        return self._latest.sequence if self._cursor.phase is CursorPhase.FORWARD else None

    def pass_over(self, since: int, through: int) -> None:
        """Go on behind `through`: the hub cannot give what follows `since`.

        What of it is not known otherwise is announced as a gap once what follows is final.
        """
        if self.wants() == PageRequest(since) and self._cursor.phase is CursorPhase.FORWARD:
            self._cursor.pass_over(since, through)

    def on_token_refused(self) -> None:
        """Drop the continuation token of the requested page: the hub no longer takes it."""
        if self.wants() is not None and self._cursor.request.token is not None:
            self._cursor.forget_token()
