"""The simulated hub's memory: users, their events, and their subscribers. It has no HTTP.

Everything happens on one event loop; nothing here waits.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.simulator.faults import HEALTHY, Faults, FaultScope, Refusal
from gateway.simulator.user import User
from gateway.simulator.wire import Form


class SimulatedHub:
    """All users, and the faults that hold for all of them."""

    def __init__(
        self, users: Mapping[str, str], *, strategies: tuple[int, ...], form: Form, seed: int, faults: Faults = HEALTHY
    ) -> None:
        """`users` gives each name its key."""
        self.form = form
        self.seed = seed
        self.scope = FaultScope(initial=faults)
        self.refusals: list[Refusal] = []
        self.users: dict[str, User] = {}
        self._by_key: dict[str, User] = {}
        self._busy: set[User] = set()
        for name, key in users.items():
            self.add(name, key, strategies)

    def add(self, name: str, key: str, strategies: tuple[int, ...]) -> User:
        """Make a user."""
        user = User(name, key, strategies, seed=self.seed, form=self.form, above=self.scope, busy=self._busy)
        self.users[name] = user
        self._by_key[key] = user
        return user

    def change_key(self, user: User, key: str) -> None:
        """Change a user to another key; the old one is refused from now on."""
        self._by_key.pop(user.key, None)
        user.key = key
        self._by_key[key] = user

    def swap_keys(self, one: User, other: User) -> None:
        """Hand each of two users the other's key; open connections keep their users."""
        one.key, other.key = other.key, one.key
        self._by_key[one.key], self._by_key[other.key] = one, other

    def user_of(self, key: str) -> User | None:
        """Return the user that a bearer key belongs to."""
        return self._by_key.get(key)

    def refusal(self, user: User | None, step: str, now: float) -> Refusal | None:
        """Return the refusal that a connect at `step` meets, if any; it counts as met."""
        for refusals in (user.refusals if user else [], self.refusals):
            refusals[:] = [refusal for refusal in refusals if not refusal.over(now)]
            for refusal in refusals:
                if refusal.takes(step, now):
                    return refusal
        return None

    def tick(self, seconds: float) -> None:
        """Let `seconds` pass for every user that has something to do."""
        for user in tuple(self._busy):
            user.tick(seconds)
