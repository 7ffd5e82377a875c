"""A requested subscription, until it holds: from the sequence after all that is known then."""

from __future__ import annotations

from gateway.session.history_cursor import CursorPhase, HistoryCursor
from gateway.session.outbox import Outbox
from gateway.session.subscriptions import Strategies, Subscription


class SubscriptionChange:
    """The change that waits, if there is one.

    An answer of the hub that is under way when the change is requested may be older than it: the second one holds.
    """

    __slots__ = ("_answers", "_cursor", "_outbox", "_wanted")

    def __init__(self, outbox: Outbox, cursor: HistoryCursor) -> None:
        """The change goes through `outbox`; `cursor` shows whether the history is proven."""
        self._outbox = outbox
        self._cursor = cursor
        self._wanted: Subscription | None = None
        self._answers = 0

    def ask(self, wanted: Subscription) -> None:
        """Let `wanted` hold as soon as it can, unless it does already."""
        self._answers = 0
        self._wanted = wanted if wanted.strategies != self._outbox.subscriptions.newest else None

    @property
    def is_waiting(self) -> bool:
        """Whether a subscription was requested that does not hold yet."""
        return self._wanted is not None

    @property
    def strategies(self) -> Strategies:
        """What holds for events to come, or is about to."""
        return self._wanted.strategies if self._wanted is not None else self._outbox.subscriptions.newest

    @property
    def is_possible(self) -> bool:
        """Whether one waits that could hold now: the history is proven, and the checkpoint has room."""
        wanted = self._wanted
        return (
            wanted is not None
            and self._cursor.phase is CursorPhase.FORWARD
            and self._outbox.subscriptions.has_room(wanted.strategies, self._outbox.verified)
        )

    def on_latest(self, known: int) -> None:
        """Take the hub's latest; `known` is the highest sequence that anything is known of."""
        self._answers += 1
        if self._wanted is not None and self.is_possible and self._answers > 1:
            self._outbox.subscribe(Subscription(known + 1, self._wanted.strategies))
            self._wanted = None
