"""The simulated hub's memory: users, what they emitted, and who listens. It knows no HTTP.

Everything happens on one event loop; nothing here waits.
"""

from __future__ import annotations

import asyncio
import base64
import heapq
import json
import math
import secrets
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Final

from gateway.simulator.envelopes import Members, Wrapping, join, lot, split, thinned
from gateway.simulator.events import CALLBACKS, EventSource, Template
from gateway.simulator.faults import HEALTHY, Failure, Faults, Refusal, Scope
from gateway.simulator.wire import TICKS, Clock, Form, Style, name_in

UNKNOWN: Final = "OnMarginCall"
"""A callback that the reference does not have."""

_NAMES: Final = (*CALLBACKS, UNKNOWN)
_RECORDS: Final = tuple(b'{"type":1,"target":"%b","arguments":[' % name.encode() for name in _NAMES)
_STEP: Final = 1_000


@dataclass(frozen=True, slots=True)
class Injection:
    """Raw bytes that somebody wants the hub to say."""

    raw: bytes
    """In it `$SEQUENCE`, `$ID` and `$TIME` stand for a number, a new EventId and the present."""
    callback: str = "OnOrderUpdate"
    is_record: bool = False
    """Whether `raw` is a whole record, but for its end, instead of a callback's argument."""
    push: bool = True
    """Whether it is pushed to whoever has a subscription; the faults of pushes do not touch it."""
    history: str = "no"
    """`no`; as the `payload` of an envelope; or as the whole `envelope`."""
    sequence: int | None = None
    """Its number in the hub's order; None: the next."""
    numbered: bool = True
    """Whether it has a number; without one it stands behind the latest event, and no EventSeqId goes around it."""


@dataclass(frozen=True, slots=True)
class _Injected:
    """What an entry of the history is that was injected."""

    wish: Injection
    raw: bytes
    header: Members


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
        self._injected: dict[int, _Injected] = {}

    def __len__(self) -> int:
        return len(self.payloads)

    def append(self, sequence: int, callback: int, payload: bytes, now: float) -> None:
        """Add the latest event, emitted at the monotonic time `now`."""
        self.sequences.append(sequence)
        self.callbacks.append(callback)
        self.payloads.append(payload)
        self._emitted_at.append(now)

    def inject(self, sequence: int, injected: _Injected, now: float) -> None:
        """Add what was injected, at its place by its number."""
        at = self.after(sequence)
        self._emitted_at.insert(at, now if at == len(self) else self._emitted_at[at])
        self.sequences.insert(at, sequence)
        self.callbacks.insert(at, 0)
        self.payloads.insert(at, injected.raw)
        self._stragglers = {index + (index >= at): until for index, until in self._stragglers.items()}
        self._injected = {index + (index >= at): other for index, other in self._injected.items()}
        self._injected[at] = injected
        if injected.wish.history == "no":
            self._stragglers[at] = math.inf

    def hide(self, until: float) -> None:
        """Let the latest event be unknown to `page` until then."""
        self._stragglers[len(self) - 1] = until

    def after(self, since: int) -> int:
        """Return the index of the first event numbered above `since`."""
        return bisect_right(self.sequences, since)

    def latest(self, faults: Faults, now: float) -> int:
        """Return the largest sequence id that GetLatestEventSeqId knows; 0 without any."""
        shown = self._shown(faults.latest_lag, now)
        return self.sequences[shown - 1] if shown else 0

    def page(self, since: int, limit: int, faults: Faults, now: float) -> tuple[list[int], bool]:
        """Return the indices of up to `limit` events above `since`, and whether there are more."""
        start = max(self.after(since), bisect_left(self.sequences, faults.forget_below))
        end = self._shown(faults.history_lag, now)
        if not self._stragglers:
            return list(range(start, min(end, start + limit))), end > start + limit
        self._stragglers = {index: until for index, until in self._stragglers.items() if until > now}
        shown = [index for index in range(start, end) if index not in self._stragglers]
        return shown[:limit], len(shown) > limit

    def entry(self, index: int, wrapping: Wrapping) -> bytes:
        """Return an event as an entry of a page."""
        injected = self._injected.get(index)
        if injected is None:
            return wrapping.entry(_NAMES[self.callbacks[index]], self.payloads[index], self.sequences[index])
        if injected.wish.history == "envelope":
            return injected.raw
        return wrapping.around(injected.wish.callback, injected.raw, injected.header)

    def line(self, index: int) -> bytes:
        """Return an event as a line of JSON: sequence, callback and payload, the payload as it is on the wire.

        What was injected has `raw`, in base64, in the payload's place, and how it was shown.
        """
        injected = self._injected.get(index)
        if injected is None:
            parts = (self.sequences[index], _NAMES[self.callbacks[index]].encode(), self.payloads[index])
            return b'{"sequence":%d,"callback":"%b","payload":%b}\n' % parts
        wish = injected.wish
        line = {
            "sequence": self.sequences[index] if wish.numbered else None,
            "callback": wish.callback,
            "raw": base64.b64encode(injected.raw).decode(),
            "pushed": wish.push,
            "history": wish.history,
        }
        return json.dumps(line, separators=(",", ":")).encode() + b"\n"

    def _shown(self, lag: float, now: float) -> int:
        return bisect_right(self._emitted_at, now - lag) if lag else len(self)


@dataclass(slots=True, eq=False)
class Subscriber:
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
        """Return how many events `seconds` more have made due, and take them off."""
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
        self.listeners: dict[str, Subscriber] = {}
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
    def style(self) -> Style:
        """How this user's events are written now."""
        faults = self.faults
        return Style(
            self.form,
            faults.decimals_as_text,
            faults.time_zone,
            faults.time_digits,
            faults.unknown_members,
            faults.integers_as_text,
            faults.nulls_left_out,
            tuple((enum, tuple(names)) for enum, names in faults.enums.items()),
        )

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
        faults, style, history = self.faults, self.style, self.history
        now = time.monotonic()
        moment = self._clock.now() - int(age * TICKS)
        for _ in range(number):
            if spread:
                moment += int(spread * TICKS)
            elif not age:
                moment = self._clock.now()
            sequence = self._next + (self._dice.randrange(faults.sequence_step) if faults.sequence_step > 1 else 0)
            self._next = sequence + 1
            template, payload = self._source.make(sequence, style, moment, callbacks)
            if faults.unknown_kind and lot(sequence, "kind") < faults.unknown_kind:
                template = replace(template, callback=len(CALLBACKS), active=None)
            history.append(sequence, template.callback, payload, now)
            if faults.live_only and lot(sequence, "live") < faults.live_only:
                history.hide(math.inf)
            elif faults.straggle and self._dice.random() < faults.straggle:
                history.hide(now + faults.straggle_seconds)
            if template.active is not None:
                self._remember(template, payload)
            if self.listeners:
                self.push(sequence, template, payload, faults, now)
        self.counts["emitted"] += number

    def push(self, sequence: int, template: Template, payload: bytes, faults: Faults, now: float) -> None:
        """Push an event to whoever subscribed, with the faults that pushes suffer."""
        if not faults.disturb_pushes:
            self._deliver(template.strategy, _record(template.callback, payload))
            return
        chance = self._dice.random
        if chance() < faults.drop:
            self.counts["dropped pushes"] += 1
            return
        record = _record(template.callback, _spoiled(payload, sequence, faults))
        for _ in range(2 if chance() < faults.duplicate else 1):
            if wait := faults.delay + chance() * faults.reorder:
                self._busy.add(self)
                heapq.heappush(self._held, (now + wait, next(self._turn), template.strategy, record))
            else:
                self._deliver(template.strategy, record)

    def inject(self, wish: Injection) -> int | None:
        """Say raw bytes, and return the number that they have in the hub's order; the truth has them as `raw`."""
        sequence = self._next if wish.sequence is None else wish.sequence
        header: Members = tuple(
            (name_in(self.form, name).encode(), value)
            for name, value in (
                ("EventId", b'"%b"' % self._source.uuid()),
                ("EventSeqId", b"%d" % sequence),
                ("EventTime", b'"%b"' % self._clock.write(self._clock.now())),
            )
        )
        raw = wish.raw
        for place, (_, value) in zip((b"$ID", b"$SEQUENCE", b"$TIME"), header, strict=True):
            raw = raw.replace(place, value.strip(b'"'))
        if not wish.numbered:
            sequence = self._next - 1
        injected = _Injected(wish, raw, thinned(header, without_sequence=not wish.numbered))
        self.history.inject(sequence, injected, time.monotonic())
        self._next = max(self._next, sequence + 1)
        if wish.push:
            name = json.dumps(wish.callback).encode()
            self._deliver(
                None, raw + b"\x1e" if wish.is_record else b'{"type":1,"target":%b,"arguments":[%b]}\x1e' % (name, raw)
            )
        self.counts["injected"] += 1
        return sequence if wish.numbered else None

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

    def attach(self, listener: Subscriber) -> None:
        """Let a connection listen; it may be told at once which signals and errors are on."""
        self.listeners[listener.id] = listener
        if self.faults.active_signals:
            for record in self._active.values():
                listener.push(record)

    def detach(self, listener: Subscriber) -> None:
        """Forget a connection."""
        self.listeners.pop(listener.id, None)

    def reset(self, first: int = 1) -> None:
        """Begin a new incarnation: an empty history whose sequence ids start at `first`."""
        self.incarnations.append(History())
        self._next = first
        self._active.clear()
        self._held.clear()

    def emitted(self, incarnation: int = -1, since: int = 0, limit: int | None = None) -> Iterator[bytes]:
        """Return the truth line by line: sequence, callback and payload of everything emitted, faults or not.

        A line is `{"sequence": …, "callback": …, "payload": …}`, the payload the exact JSON of the wire; see
        `History.line` for what was injected.
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


def _spoiled(payload: bytes, sequence: int, faults: Faults) -> bytes:
    """Return a payload as it is pushed: without EventId, without EventSeqId or with 0, as its lot will have it."""
    if not (faults.sequence_missing or faults.sequence_zero or faults.id_missing):
        return payload
    body, header = split(payload)
    without_sequence = lot(sequence, "sequence") < faults.sequence_missing
    if lot(sequence, "zero") < faults.sequence_zero:
        id_, (name, _), time_ = header
        header = (id_, (name, b"0"), time_)
    without_id = lot(sequence, "id") < faults.id_missing
    return join(body, thinned(header, without_id=without_id, without_sequence=without_sequence))


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
        """Change a user to another key; the old one is refused from now on."""
        self._by_key.pop(user.key, None)
        user.key = key
        self._by_key[key] = user

    def swap_keys(self, one: User, other: User) -> None:
        """Hand each of two users the other's key; connections that stand stay whose they are."""
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
