"""What the hub pushes for one account, changed to the desired subscription by the difference alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.backoff import Backoff
from gateway.errors import CallFailed, CallRejected, CallTimedOut, HubError
from gateway.hub.methods import Hub, SubscriptionAnswer
from gateway.replica.source.hub_calls import MAX_CALL_DELAY_S
from gateway.session.subscriptions import Strategies
from gateway.telemetry.logs import get_logger

_RENEWAL_INTERVAL_S: Final = 600.0
"""Seconds between two subscriptions over one connection: a strategy that was made since may not be covered."""
_TRIES: Final = 3
"""Subscriptions that may fail in a row before it goes on without."""
_MAX_LOGGED: Final = 20
"""Strategies that a line of the log names."""

Call = Callable[[Callable[[], Awaitable[SubscriptionAnswer]]], Awaitable[SubscriptionAnswer]]


class HubSubscription:
    """The subscription of one account at the hub."""

    def __init__(self, account: str, call: Call, note: Callable[[HubError], None]) -> None:
        """`call` calls until there is an answer; `note` is called for a failed call."""
        self._note = note
        self.failed: tuple[int, ...] = ()
        """Strategies that the hub did not give when it was asked last."""
        self._account = account
        self._call = call
        self._pushed: frozenset[int] = frozenset()  # as far as the hub reported
        self._renew_at = 0.0

    def on_connected(self) -> None:
        """Note a new connection: nothing is pushed over it yet."""
        self._pushed = frozenset()
        self._renew_at = 0.0

    async def widen(self, hub: Hub, wanted: Strategies) -> None:
        """Make the hub push `wanted`, in addition to what it pushes already.

        Where the hub refuses that a few times, it is asked again at each audit: the history is read meanwhile.
        """
        missing = None if wanted is None else wanted - self._pushed
        if missing is not None and not missing:
            return
        backoff = Backoff(cap=MAX_CALL_DELAY_S)
        for _ in range(_TRIES):
            if await self._try(hub, missing):
                return
            await asyncio.sleep(backoff.next_delay())
        self._renew_at = 0.0
        get_logger(account=self._account).warning(
            "hub rejected the subscription: audits will find the events that it does not push"
        )

    def expire(self) -> None:
        """Let the next audit subscribe again."""
        self._renew_at = 0.0

    async def renew(self, hub: Hub, wanted: Strategies) -> None:
        """Subscribe again, now and then, and soon where the hub did not give everything; it may fail once more."""
        if asyncio.get_running_loop().time() >= self._renew_at and (wanted is None or wanted):
            await self._try(hub, wanted)

    async def _try(self, hub: Hub, wanted: Strategies) -> bool:
        try:
            answer = await hub.subscribe(None if wanted is None else sorted(wanted))
        except (CallFailed, CallRejected, CallTimedOut) as error:
            self._note(error)
            return False
        self._apply(answer)
        return True

    def _apply(self, answer: SubscriptionAnswer) -> None:
        self._pushed |= frozenset(answer.successful)
        self._renew_at = 0.0 if answer.failed else asyncio.get_running_loop().time() + _RENEWAL_INTERVAL_S
        if answer.failed != self.failed:
            self.failed = answer.failed
            get_logger(account=self._account).warning(
                "rejected strategies of the subscription changed",
                failed=list(answer.failed[:_MAX_LOGGED]),
                of=len(answer.failed),
            )

    def exceeds(self, wanted: Strategies) -> bool:
        """Return whether the hub pushes more than `wanted`, as far as it reported."""
        return wanted is not None and not self._pushed <= wanted

    async def narrow(self, hub: Hub, wanted: Strategies) -> None:
        """Make the hub push no more than `wanted`; an empty subscription means leaving all."""
        if wanted is not None:
            surplus = sorted(self._pushed - wanted)
            await self._call(lambda: hub.unsubscribe(surplus if wanted else None))
            self._pushed &= wanted
            self.failed = tuple(strategy for strategy in self.failed if strategy in wanted)


def subscription_of(strategies: tuple[int, ...] | None) -> Strategies:
    """Return them as sessions have them."""
    return None if strategies is None else frozenset(strategies)
