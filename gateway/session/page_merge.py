"""The merge of a page of the history into the queue, in order with the pushes that wait for it."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.errors import Diverged
from gateway.events.event import DeadLetter
from gateway.session.checkpoint import Anchor
from gateway.session.history_cursor import CursorPhase
from gateway.session.hub_clock import Moment
from gateway.session.parts import SessionParts
from gateway.session.types import Content, Outcome


class PageMerger:
    """Queues what pages show, and moves `verified` behind what is final."""

    def __init__(self, parts: SessionParts) -> None:
        """Among `parts`, `finality` has what of the history changes no more, `clock` how long it has been empty."""
        self.unpushed = 0
        """Events that were published while live though no push had brought them."""
        self.strays = 0
        """Events at or below what is verified that are neither the anchor nor remembered."""
        self._outbox = parts.outbox
        self._waiting = parts.waiting
        self._doubtful = parts.doubtful
        self._cursor = parts.cursor
        self._finality = parts.finality
        self._clock = parts.clock
        self._aside: list[Content] = []
        self._empty_since: tuple[Moment, int] | None = None

    def reset(self) -> None:
        """Forget what was set aside, and since when the history is empty: another connection or look begins."""
        self._aside.clear()
        self._empty_since = None

    def look_for_anchor(self, contents: Sequence[Content], *, ended: bool, latest: int) -> bool | None:
        """Check which history it is; return None where the page can be merged, else whether to ask again only later.

        Raises Diverged.
        """
        cursor, before = self._cursor, self._cursor.phase
        if any(content.sequence is not None for content in contents):
            self._empty_since = None
        if cursor.check(contents, ended=ended):
            for content in self._aside:
                self._outbox.place(content)
            self._aside.clear()
            if cursor.new_incarnation is not None:
                self._outbox.mark(self._outbox.marked, cursor.new_incarnation)
            return None
        if cursor.phase is before and cursor.phase is CursorPhase.ANCHOR:
            self._aside += [content for content in contents if content.sequence is None]
        else:
            self._aside.clear()  # it will be shown again
        if cursor.waits:
            return True
        if cursor.phase is before:
            if ended:
                return self._found_nothing(latest)
            cursor.turn()
        return False

    def _found_nothing(self, latest: int) -> bool:
        """Take an empty history. Where it has to have something it may lag, but not longer than its grace."""
        if latest > self._outbox.marked:
            self._empty_since = self._empty_since or (self._clock.now, latest)
            since, last = self._empty_since
            if not self._clock.has_passed(since):
                self._cursor.begin(self._outbox.marked, self._outbox.anchor)
                return True
            self._pass_gap(last)
        self._empty_since = None
        self._cursor.read_forward()
        return False

    def check_without_anchor(self, contents: Sequence[Content]) -> None:
        """Compare a first page with what was published before history showed anything: pushes alone made that known.

        Raises Diverged where of the numbers that both have every event is another.
        """
        outbox = self._outbox
        known = [content for content in contents if content.sequence is not None and content.sequence in outbox]
        others = [content for content in known if outbox.contradicts(content)]
        if others and len(others) == len(known):
            raise Diverged(
                f"event {others[0].sequence} is {others[0].id} in the hub's history now, and was another one when it "
                "was published: the hub started again, or the key is another user's. If that is meant, reset the "
                "checkpoint"
            )

    def end_holes(self, contents: Sequence[Content]) -> None:
        """Let the page before end the holes in it, where this one does not fill any: a hub need not sort its pages."""
        cursor, outbox = self._cursor, self._outbox
        if (pending := cursor.pending) is None:
            return
        below = (one.sequence for one in contents if one.sequence is not None and one.sequence < pending.sequence)
        cursor.is_unordered = cursor.is_unordered or any(map(outbox.is_open, below))
        if not cursor.is_unordered:
            cursor.pending = None
            outbox.mark(max(outbox.marked, pending.sequence), pending)

    def merge(self, contents: Sequence[Content], *, live: bool) -> bool:
        """Queue the new events of a page; return True where it must stop before the page's end."""
        cursor, outbox = self._cursor, self._outbox
        outbox.learn_forms(contents)
        last = self._finality.last_final(contents, outbox.marked, outbox.has_hole) if cursor.all_final else None
        final = outbox.marked if last is None or last.sequence is None else last.sequence
        if cursor.origin is not None and final >= cursor.origin:
            self._pass_gap(cursor.origin - 1)
            cursor.origin = None
        if cursor.passed is not None and final > cursor.passed[1]:
            since, through = cursor.passed
            outbox.mark(max(outbox.marked, since), outbox.anchor)
            self._pass_gap(through)
            cursor.passed = None
        stopped = False
        for content in contents:
            sequence = content.sequence
            if sequence is None:
                outbox.place(content)
            elif stopped:
                continue  # but what has no sequence may stand anywhere, if the page is not sorted
            elif sequence <= outbox.marked:
                self._look_at_known(content, live=live)
            elif self._must_wait(content, final, live=live) or not self._place_waiting(sequence - 1, final):
                stopped = True
            else:
                self._merge(sequence, content, final, live=live)
        if last is not None and final > outbox.marked:
            self._mark(Anchor.of(last), goes_on=cursor.leads_on and not stopped)
        return stopped

    def _mark(self, last: Anchor, *, goes_on: bool) -> None:
        """Let everything up to `last` be final; where there are holes only once no page that follows can fill them."""
        cursor, outbox = self._cursor, self._outbox
        if cursor.pending is not None and cursor.pending.sequence > last.sequence:
            last = cursor.pending
        if goes_on and not cursor.requires_overlap and outbox.has_hole(outbox.marked + 1, last.sequence):
            cursor.pending = last
        else:
            cursor.pending = None
            outbox.mark(last.sequence, last)

    def _must_wait(self, content: Content, final: int, *, live: bool) -> bool:
        """Live, what is young may still be on its way as a push. With a full checkpoint it waits until it is final."""
        sequence = content.sequence
        if sequence is None or sequence <= final:
            return False
        if self._outbox.checkpoint_full or not live or self._finality.is_old(content):
            return self._outbox.checkpoint_full
        # Where a push is doubtful, history is read on for it.
        is_known = sequence in self._outbox and bool(self._doubtful)
        return not is_known and not self._doubtful.is_garbled(sequence)

    def _merge(self, sequence: int, content: Content, final: int, *, live: bool) -> None:
        cursor, outbox = self._cursor, self._outbox
        if sequence in outbox:
            outbox.meet(content)
        elif sequence in self._waiting:
            pushed = self._waiting.pop(sequence)
            outbox.place(content if isinstance(pushed, DeadLetter) else pushed)  # what history has whole is whole
            outbox.meet(content)
        else:
            self._place(content, live=live)
        cursor.reached = max(cursor.reached, sequence)
        if sequence > final:
            cursor.all_final = False
            if outbox.anchor is None:  # better a young anchor than none, should the hub start again now
                outbox.mark(outbox.marked, Anchor.of(content))
        elif outbox.checkpoint_half_full:
            outbox.mark(sequence, Anchor.of(content))

    def _place(self, content: Content, *, live: bool) -> None:
        """Queue what history alone shows."""
        outcome = self._outbox.place(content)
        if live and (outcome is Outcome.QUEUED or outcome is Outcome.LATE):
            self.unpushed += 1

    def _look_at_known(self, content: Content, *, live: bool) -> None:
        outbox, sequence = self._outbox, content.sequence
        anchor = outbox.anchor if outbox.anchor is not None and sequence == outbox.anchor.sequence else None
        assert sequence is not None  # noqa: S101 - the caller looked
        if outbox.is_open(sequence):
            self._place(content, live=live)
        elif outbox.is_same(sequence, content):
            return
        elif anchor is not None and anchor.contradicts(Anchor.of(content)):
            outbox.contradictions.place_reused(content, anchor.id)
        elif anchor is None and sequence != outbox.marked and outbox.meet(content) is Outcome.DUPLICATE:
            self.strays += 1

    def _place_waiting(self, through: int, final: int) -> bool:
        """Queue the pushes that history has passed; return False where the checkpoint has no room for one."""
        for sequence in self._waiting.through(through):
            if sequence > final and self._outbox.checkpoint_full:
                return False
            self._outbox.place(self._waiting.pop(sequence))
            if sequence <= final and self._outbox.checkpoint_half_full:
                self._outbox.mark(sequence, self._outbox.anchor)
        return True

    def _pass_gap(self, last: int) -> None:
        """Announce what the hub no longer has, up to `last`, and go on after it; what was pushed of it is not lost."""
        for sequence in self._waiting.through(last):
            if self._outbox.checkpoint_half_full:
                self._outbox.pass_gap(sequence - 1)
            self._outbox.place(self._waiting.pop(sequence))
        self._outbox.pass_gap(last)
        self._cursor.reached = max(self._cursor.reached, last)
