"""The simulated hub's memory: users, what they emitted, and who listens. It knows no HTTP.

Everything happens on one event loop; nothing here waits.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Final

from gateway.simulator.events import CALLBACKS, EventSource, Template
from gateway.simulator.faults import HEALTHY, Failure, Faults, Refusal, Scope
from gateway.simulator.wire import TICKS, Clock, Form

_CALLBACKS: Final = tuple(name.encode() for name in CALLBACKS)
_RECORDS: Final = tuple(b'{"type":1,"target":"%b","arguments":[' % name for name in _CALLBACKS)
_STEP: Final = 1_000
_SEQUENCE_ENDS: Final = (b',"eventTime":"', b',"EventTime":"')


class History:
    """Everything that one incarnation of a user emitted, oldest first.

    Columns instead of one object an event: 100,000 events take their payloads' bytes and 8 MB.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self.sequences = array("q")
        self.callbacks = array("B")
        self.payloads: list[bytes] = []
        self._emitted_at = array("d")
        self._stragglers: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self.payloads)

    def append(self, sequence: int, callback: int, payload: bytes, now: float) -> None:
        """Add the latest event, emitted at the monotonic time `now`."""
        self.sequences.append(sequence)
        self.callbacks.append(callback)
        self.payloads.append(payload)
        self._emitted_at.append(now)

    def hide(self, until: float) -> None:
        """Let the latest event be unknown to `page` until then."""
        self._stragglers[len(self) - 1] = until

    def after(self, since: int) -> int:
        """Give the index of the first event numbered above `since`."""
        return bisect_right(self.sequences, since)

    def latest(self, faults: Faults, now: float) -> int:
        """Give the largest sequence id that GetLatestEventSeqId knows; 0 without any."""
        shown = self._shown(faults.latest_lag, now)
        return self.sequences[shown - 1] if shown else 0

    def page(self, since: int, limit: int, faults: Faults, now: float) -> tuple[list[int], bool]:
        """Give the indices of up to `limit` events above `since`, and whether there are more."""
        start = max(self.after(since), bisect_left(self.sequences, faults.forget_below))
        end = self._shown(faults.history_lag, now)
        if not self._stragglers:
            return list(range(start, min(end, start + limit))), end > start + limit
        self._stragglers = {index: until for index, until in self._stragglers.items() if until > now}
        shown = [index for index in range(start, end) if index not in self._stragglers]
        return shown[:limit], len(shown) > limit

    def line(self, index: int) -> bytes:
        """Give an event as a line of JSON: sequence, callback and payload, the payload as it is on the wire."""
        parts = (self.sequences[index], _CALLBACKS[self.callbacks[index]], self.payloads[index])
        return b'{"sequence":%d,"callback":"%b","payload":%b}\n' % parts

    def _shown(self, lag: float, now: float) -> int:
        return bisect_right(self._emitted_at, now - lag) if lag else len(self)


@dataclass(slots=True, eq=False)
class Listener:
    """One connection as the hub's memory sees it."""

    id: str
    push: Callable[[bytes], None]
    """Takes a whole record; never waits and never raises."""
    strategies: set[int] = field(default_factory=set)
    """The strategies that it subscribed to."""


@dataclass(slots=True)
class Emission:
    """Events to come at a steady rate."""

    rate: float
    """Events a second."""
    remaining: int | None
    """How many are left; None: no end."""
    callbacks: tuple[int, ...] | None = None
    """Indices into CALLBACKS to choose from; None: all, in their usual mix."""
    owed: float = 0.0

    def due(self, seconds: float) -> int:
        """Give how many events `seconds` more have made due, and take them off."""
        self.owed += seconds * self.rate
        due = int(self.owed) if self.remaining is None else min(int(self.owed), self.remaining)
        self.owed -= int(self.owed)
        if self.remaining is not None:
            self.remaining -= due
        return due


class User:
    """One API key: its strategies, its history, its listeners and its faults."""

    def __init__(
        self, name: str, key: str, strategies: tuple[int, ...], *, seed: int, form: Form, above: Scope, busy: set[User]
    ) -> None:
        """`above` are the hub's faults, which hold where the user has none of its own; `busy` wants its ticks."""
        self.name = name
        self.key = key
        self.strategies = strategies
        self.scope = Scope(above)
        self.refusals: list[Refusal] = []
        self.failures: list[Failure] = []
        self.emissions: list[Emission] = []
        self.paused = False
        self.listeners: dict[str, Listener] = {}
        self.counts: Counter[str] = Counter()
        self.incarnations = [History()]
        self._form = form
        self._busy = busy
        self._next = 1
        self._seed = seed
        self._dice = Random(f"{seed}/{name}/faults")
        self._source = EventSource(seed, name, strategies)
        self._clock = Clock()
        self._active: dict[tuple[int, int | None], bytes] = {}
        self._turn = count()
        self._held: list[tuple[float, int, int | None, bytes]] = []

    @property
    def faults(self) -> Faults:
        """The faults that hold for this user now."""
        return self.scope.faults

    @property
    def form(self) -> Form:
        """The wire form that holds for this user now."""
        return self.faults.form or self._form

    @property
    def history(self) -> History:
        """What the present incarnation emitted."""
        return self.incarnations[-1]

    def begin(self, emission: Emission) -> None:
        """Emit at a steady rate from now on, beside what is being emitted already."""
        self.emissions.append(emission)
        self._busy.add(self)

    def set_strategies(self, strategies: tuple[int, ...]) -> None:
        """Emit for these strategies from now on; present subscriptions stay as they are."""
        self.strategies = strategies
        self._source = EventSource(secrets.randbits(64), self.name, strategies)

    def emit(
        self, number: int, callbacks: Collection[int] | None = None, *, spread: float = 0.0, age: float = 0.0
    ) -> None:
        """Emit `number` events: into the history, and to whoever listens.

        They occurred `age` seconds ago, `spread` seconds apart, so that a history can be made to lie in the past.
        """
        faults, form, history = self.faults, self.form, self.history
        now = time.monotonic()
        moment = self._clock.now() - int(age * TICKS)
        for _ in range(number):
            if spread:
                moment += int(spread * TICKS)
            elif not age:
                moment = self._clock.now()
            sequence = self._next + (self._dice.randrange(faults.sequence_step) if faults.sequence_step > 1 else 0)
            self._next = sequence + 1
            template, payload = self._source.make(sequence, form, moment, callbacks)
            history.append(sequence, template.callback, payload, now)
            if faults.straggle and self._dice.random() < faults.straggle:
                history.hide(now + faults.straggle_seconds)
            if template.active is not None:
                self._remember(template, payload)
            if self.listeners:
                self.push(template, payload, faults, now)
        self.counts["emitted"] += number

    def push(self, template: Template, payload: bytes, faults: Faults, now: float) -> None:
        """Push an event to whoever subscribed, with the faults that pushes suffer."""
        if not faults.disturb_pushes:
            self._deliver(template.strategy, _record(template.callback, payload))
            return
        chance = self._dice.random
        if chance() < faults.drop:
            self.counts["dropped pushes"] += 1
            return
        if chance() < faults.sequence_missing:
            payload = without_sequence(payload)
        elif chance() < faults.sequence_zero:
            payload = with_sequence(payload, 0)
        record = _record(template.callback, payload)
        for _ in range(2 if chance() < faults.duplicate else 1):
            if wait := faults.delay + chance() * faults.reorder:
                self._busy.add(self)
                heapq.heappush(self._held, (now + wait, next(self._turn), template.strategy, record))
            else:
                self._deliver(template.strategy, record)

    def tick(self, seconds: float) -> None:
        """Let `seconds` pass: emit what is due, release what was held back for long enough."""
        if not self.paused:
            for emission in self.emissions:
                self.emit(emission.due(seconds), emission.callbacks)
            self.emissions = [emission for emission in self.emissions if emission.remaining != 0]
        now = time.monotonic()
        while self._held and self._held[0][0] <= now:
            _, _, strategy, record = heapq.heappop(self._held)
            self._deliver(strategy, record)
        if not self._held and not self.emissions:
            self._busy.discard(self)

    def attach(self, listener: Listener) -> None:
        """Let a connection listen; it may be told at once which signals and errors are on."""
        self.listeners[listener.id] = listener
        if self.faults.active_signals:
            for record in self._active.values():
                listener.push(record)

    def detach(self, listener: Listener) -> None:
        """Forget a connection."""
        self.listeners.pop(listener.id, None)

    def reset(self, first: int = 1) -> None:
        """Begin a new incarnation: an empty history whose sequence ids start at `first`."""
        self.incarnations.append(History())
        self._next = first
        self._active.clear()
        self._held.clear()

    def emitted(self, incarnation: int = -1, since: int = 0, limit: int | None = None) -> Iterator[bytes]:
        """Give the truth line by line: sequence, callback and payload of everything emitted, faults or not.

        A line is `{"sequence": …, "callback": …, "payload": …}`, the payload the exact JSON of the wire.
        Raises IndexError for an incarnation that never was.
        """
        history = self.incarnations[incarnation]
        start = history.after(since)
        end = len(history) if limit is None else min(len(history), start + limit)
        return map(history.line, range(start, end))

    def _remember(self, template: Template, payload: bytes) -> None:
        key = (template.callback, template.strategy)
        if template.active:
            self._active[key] = _record(template.callback, payload)
        else:
            self._active.pop(key, None)

    def _deliver(self, strategy: int | None, record: bytes) -> None:
        for listener in self.listeners.values():
            if listener.strategies and (strategy is None or strategy in listener.strategies):
                listener.push(record)
                self.counts["pushes"] += 1


def _record(callback: int, payload: bytes) -> bytes:
    return b"%b%b]}\x1e" % (_RECORDS[callback], payload)


def with_sequence(payload: bytes, sequence: int) -> bytes:
    """Give a payload with another EventSeqId."""
    start, end = _sequence_at(payload)
    return b"%b:%d%b" % (payload[: payload.rindex(b":", start, end)], sequence, payload[end:])


def without_sequence(payload: bytes) -> bytes:
    """Give a payload without EventSeqId."""
    start, end = _sequence_at(payload)
    return payload[:start] + payload[end:]


def _sequence_at(payload: bytes) -> tuple[int, int]:
    """Where `,"EventSeqId":n` begins and ends."""
    end = max(payload.rfind(mark) for mark in _SEQUENCE_ENDS)
    return payload.rindex(b",", 0, end), end


async def emit_in_steps(
    user: User, number: int, callbacks: Collection[int] | None = None, *, spread: float = 0.0
) -> None:
    """Emit many events, giving the loop its turn between steps: 100,000 take about half a second.

    With a `spread` in seconds they lie in the past, that far apart.
    """
    for done in range(0, number, _STEP):
        age = spread * (number - done + 1)
        user.emit(min(_STEP, number - done), callbacks, spread=spread, age=age)
        await asyncio.sleep(0)


class Hub:
    """All users, and the faults that hold for all of them."""

    def __init__(
        self, users: Mapping[str, str], *, strategies: tuple[int, ...], form: Form, seed: int, faults: Faults = HEALTHY
    ) -> None:
        """`users` gives each name its key."""
        self.form = form
        self.seed = seed
        self.scope = Scope(initial=faults)
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
        """Give a user another key; the old one is refused from now on."""
        self._by_key.pop(user.key, None)
        user.key = key
        self._by_key[key] = user

    def user_of(self, key: str) -> User | None:
        """Give the user that a bearer key belongs to."""
        return self._by_key.get(key)

    def refusal(self, user: User | None, step: str, now: float) -> Refusal | None:
        """Give the refusal that a connect at `step` meets, if any; it counts as met."""
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
