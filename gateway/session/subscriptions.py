"""The strategies subscribed at each sequence: an event is judged by the subscription that held at its own.

A change holds from the sequence after everything known when it was made. So widening publishes nothing that is older
than the change, narrowing hides nothing, and an event that history shows late is judged as it would have been in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.events.event import Event
from gateway.session.types import Content

Strategies = frozenset[int] | None
"""None for all, also those that are made later."""

MAX_BYTES: Final = 24 * 1024
"""What all subscriptions that events above `verified` may fall under may take in a checkpoint."""
MAX_PAST_BYTES: Final = 1024
"""What those may take besides that only holes below it may fall under."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """From which sequence on which strategies are published."""

    since: int
    """The first sequence that it holds for."""
    strategies: Strategies = None

    @property
    def size(self) -> int:
        """Bytes in a checkpoint."""
        return 48 + sum(len(str(strategy)) + 1 for strategy in self.strategies or ())


ALL: Final = (Subscription(0),)


def strategies_text(strategies: Strategies) -> str | None:
    """Return strategies as notifications name them: `1,2`; null for all."""
    return None if strategies is None else ",".join(map(str, sorted(strategies)))


def check_strategies(strategies: Strategies) -> None:
    """Raise ValueError for more strategies than a checkpoint can remember beside those that they replace."""
    if Subscription(0, strategies).size > MAX_BYTES // 2:
        raise ValueError(
            f"{len(strategies or ())} strategies are more than one subscription can name: "
            "subscribe to all, and let consumers choose"
        )


class Subscriptions:
    """Every subscription that an event not yet verified may fall under, in rising order."""

    def __init__(self, subscriptions: tuple[Subscription, ...]) -> None:
        """Go on with what the checkpoint holds."""
        self._held = list(subscriptions or ALL)
        self._filters = any(subscription.strategies is not None for subscription in self._held)

    @property
    def newest(self) -> Strategies:
        """What holds for events to come."""
        return self._held[-1].strategies

    def wants(self, content: Content) -> bool:
        """Return whether `content` is to be published; what names no strategy always is."""
        if not self._filters or not isinstance(content, Event) or content.strategy is None:
            return True
        strategies = self._at(content.sequence)
        return strategies is None or content.strategy in strategies

    def _at(self, sequence: int | None) -> Strategies:
        if sequence is not None:
            for subscription in reversed(self._held):
                if subscription.since <= sequence:
                    return subscription.strategies
            return self._held[0].strategies
        return self.newest

    def has_room(self, strategies: Strategies, verified: int) -> bool:
        """Return whether one more can be remembered; there is room again when `verified` has moved."""
        needed = self._held[len(self._past(verified)) :]
        return sum(held.size for held in needed) + Subscription(0, strategies).size <= MAX_BYTES

    def _past(self, verified: int) -> list[Subscription]:
        """Return those that no event above `verified` falls under."""
        following = self._held[1:]
        return [held for held, next_ in zip(self._held, following, strict=False) if next_.since <= verified + 1]

    def first_needed(self, verified: int) -> int:
        """Return the sequence below which holes must be forgotten, lest what they fall under takes too much."""
        past = self._past(verified)
        first = 0
        while sum(held.size for held in past) > MAX_PAST_BYTES:
            first = self._held[self._held.index(past.pop(0)) + 1].since
        return first

    def change(self, subscription: Subscription) -> None:
        """Let `subscription` hold from its sequence on."""
        self._held = [held for held in self._held if held.since < subscription.since] + [subscription]
        self._filters = any(held.strategies is not None for held in self._held)

    def forget_through(self, verified: int) -> None:
        """Drop what no event above `verified` falls under."""
        while len(self._held) > 1 and self._held[1].since <= verified + 1:
            del self._held[0]
            self._filters = any(held.strategies is not None for held in self._held)

    def held(self) -> tuple[Subscription, ...]:
        """Return what the checkpoint keeps."""
        return tuple(self._held)
