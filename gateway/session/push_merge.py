"""The merge of a push into the queue: at once, behind what is missing before it, or once the hub has returned more."""

from __future__ import annotations

from gateway.events.dead_letter_reasons import DeadLetterReason
from gateway.events.event import DeadLetter
from gateway.session.doubtful_pushes import Doubt, Doubtful
from gateway.session.history_cursor import is_newer
from gateway.session.lifecycle import SessionLifecycle
from gateway.session.parts import SessionParts
from gateway.session.settled_events import Sight, compare
from gateway.session.types import Content, Outcome, State


class PushMerger:
    """Queues pushes, or lets them wait: for history, for what is missing before them, until they are doubtful no more.

    Where it has no room for one, or one shows that history must be read again, the session catches up again.
    """

    __slots__ = ("_doubtful", "_latest", "_lifecycle", "_outbox", "_overlap", "_settings", "_waiting", "dropped")

    def __init__(self, parts: SessionParts, lifecycle: SessionLifecycle) -> None:
        """What it lets wait goes to `waiting` and `doubtful` among `parts`."""
        self.dropped = 0
        """Pushes that found no room, or had to make some: only history can give them again."""
        self._outbox = parts.outbox
        self._waiting = parts.waiting
        self._doubtful = parts.doubtful
        self._overlap = parts.overlap
        self._latest = parts.latest
        self._lifecycle = lifecycle
        self._settings = parts.settings

    def on_push(self, sequence: int, content: Content, now: float, *, room: bool, proves: bool) -> Outcome:
        """Take a push with a sequence; it `proves` that all after it is pushed where it came after the subscription."""
        outbox, lifecycle = self._outbox, self._lifecycle
        if self._doubtful.is_far(sequence, outbox.high) and sequence not in outbox:
            return self._hold_aside(Doubt.FAR, sequence, content, now, room=room, proves=proves)
        self._latest.sequence = max(self._latest.sequence, sequence)
        if sequence in self._waiting:
            return self._on_push_beside_a_waiting_one(sequence, content, now, room=room)
        if sequence <= outbox.verified or sequence in outbox:
            return self._on_repeated_push(sequence, content, now, room=room)
        if not room or outbox.checkpoint_full:
            self._retreat(sequence)
            return Outcome.OVERFLOW
        if _may_be_whole_in_history(content):
            return self._hold_aside(Doubt.GARBLED, sequence, content, now, room=room, proves=proves)
        if lifecycle.state is State.LIVE and sequence <= outbox.high + 1:
            lifecycle.is_on_probation = lifecycle.is_on_probation and sequence <= outbox.high
            outcome = outbox.place(content)
            if self._waiting:
                self.drain(now)
            return outcome
        if lifecycle.is_on_probation:
            lifecycle.catch_up_again()
        self._waiting.add(sequence, content, now, proves=proves)
        if proves:
            self._overlap.proves(sequence)
        return Outcome.HELD

    def _on_push_beside_a_waiting_one(self, sequence: int, content: Content, now: float, *, room: bool) -> Outcome:
        sight = compare(self._waiting[sequence], content)
        if sight is Sight.SAME:
            return Outcome.DUPLICATE
        if sight is Sight.WHOLE:
            self._waiting.replace(sequence, content)
            return Outcome.HELD
        return self._hold_aside(Doubt.RIVAL, sequence, content, now, room=room, proves=False)

    def _on_repeated_push(self, sequence: int, content: Content, now: float, *, room: bool) -> Outcome:
        """Take a push whose number is settled or queued, or was passed.

        A number that was never settled can be published safely. A new event with a settled one may be a sign of a hub
        that started again: then its pushes must wait until it is clear which history this is.
        """
        outbox, lifecycle = self._outbox, self._lifecycle
        if outbox.is_same(sequence, content):
            return Outcome.DUPLICATE
        is_new = sequence <= outbox.verified and not outbox.is_open(sequence) and is_newer(content, outbox.anchor)
        if is_new and lifecycle.state is State.LIVE:
            lifecycle.doubt()
        if not lifecycle.is_trusted:
            return self._hold_aside(Doubt.RIVAL, sequence, content, now, room=room, proves=False)
        if outbox.is_open(sequence):
            return outbox.place(content)
        outcome = outbox.meet(content)
        if outcome is not Outcome.DUPLICATE or sequence > outbox.verified:
            return outcome
        if sequence <= outbox.draft.began:
            return Outcome.BEFORE_START
        if not outbox.is_settled(sequence):
            return outbox.contradictions.place_too_late(content, outbox.verified)
        return outbox.contradictions.place_reused(content, None) if is_new else Outcome.DUPLICATE

    def _hold_aside(
        self, doubt: Doubt, sequence: int, content: Content, now: float, *, room: bool, proves: bool
    ) -> Outcome:
        if not room:
            self._retreat(0)
            self.dropped += 1
            if doubt is Doubt.FAR:
                self._doubtful.let_go(sequence)
            return Outcome.OVERFLOW
        held = Doubtful(doubt, sequence, content, now, proves, self._waiting.trial)
        return Outcome.HELD if self._doubtful.hold(held) else Outcome.DUPLICATE

    def on_push_without_sequence(self, content: Content, *, room: bool) -> Outcome:
        """Take a push that history may show with its sequence, or not at all."""
        self._outbox.note_unidentified(content)
        if self._outbox.remembers(content):
            return Outcome.DUPLICATE
        if not room:
            # History need not have it: so it goes after everything that history gives again.
            self._retreat(0)
            if self.bytes > 2 * self._settings.buffer_bytes:
                self.dropped += 1
                return Outcome.OVERFLOW
        if self._lifecycle.state is State.LIVE:
            return self._outbox.place(content)
        # History may give it with its sequence: that comes first.
        return Outcome.HELD if self._waiting.hold(content) else Outcome.DUPLICATE

    @property
    def bytes(self) -> int:
        """Bytes of everything that waits in the session."""
        return self._outbox.queue.bytes + self._waiting.bytes + self._doubtful.bytes

    def reconsider(self) -> None:
        """Take those pushes that are doubtful no more, and those of which the hub has had its time to return more."""
        if not self._lifecycle.is_trusted:
            return
        unseen = self._doubtful.take_confirmed(self._outbox.high)
        if unseen > self._outbox.high:
            self._overlap.must_reach(unseen)
            if self._lifecycle.state is State.LIVE:
                self._lifecycle.catch_up_again()
        if not self._doubtful:
            return
        for held in self._doubtful.release(self._is_clear):
            sequence, content = held.sequence, held.content
            if held.doubt is Doubt.FAR and self._doubtful.is_far(sequence, self._outbox.high):
                self._outbox.contradictions.place_unconfirmed(content)
            elif held.doubt is Doubt.GARBLED and self._outbox.is_open(sequence):
                self._outbox.place(content)
            elif held.doubt is not Doubt.GARBLED or not self._outbox.remembers(content):
                if held.doubt is Doubt.FAR and not held.proves:
                    self._overlap.must_reach(sequence)  # what came just before it was not pushed
                self.on_push(sequence, content, held.arrived, room=True, proves=held.proves)

    def _is_clear(self, held: Doubtful) -> bool:
        match held.doubt:
            case Doubt.RIVAL:
                return held.sequence not in self._waiting
            case Doubt.FAR:
                return held.is_overdue or not self._doubtful.is_far(held.sequence, self._outbox.high)
        if held.sequence in self._waiting:
            return False
        is_passed = held.sequence <= self._outbox.marked or not self._outbox.is_open(held.sequence)
        return is_passed or held.is_overdue

    def _retreat(self, sequence: int) -> None:
        """Drop all pushes that wait, since there is no room, and page history when there is room again."""
        self._overlap.must_reach(max(sequence, self._waiting.highest))
        self.dropped += len(self._waiting) + (sequence > 0)
        self._waiting.clear()
        if self._lifecycle.state is State.LIVE:
            self._lifecycle.catch_up_again()

    def drain(self, now: float) -> None:
        """Queue what waits: all before the last that waited long enough, then what follows without a hole."""
        expired = self._waiting.highest_waited(now, self._settings.reorder_window)
        while (lowest := self._waiting.lowest) is not None and (lowest <= expired or lowest <= self._outbox.high + 1):
            if self._outbox.checkpoint_full:
                self._retreat(0)
                return
            self._outbox.place(self._waiting.pop(lowest))


def _may_be_whole_in_history(content: Content) -> bool:
    return isinstance(content, DeadLetter) and content.reason != DeadLetterReason.UNKNOWN_KIND
