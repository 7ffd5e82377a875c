"""One user of the simulated hub: its events, its subscribers, and the faults of its pushes."""

from __future__ import annotations

import asyncio
import heapq
import json
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Final

from gateway.simulator.envelopes import Members, join, lot, split, thinned
from gateway.simulator.events import CALLBACKS, EventSource, Template
from gateway.simulator.faults import Failure, Faults, FaultScope, Refusal
from gateway.simulator.history import NAMES, History, Injected, Injection
from gateway.simulator.wire import TICKS, Clock, Form, Style, name_in

_RECORDS: Final = tuple(b'{"type":1,"target":"%b","arguments":[' % name.encode() for name in NAMES)
_STEP: Final = 1_000


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


class _HeldPushes:
    """Pushes that are held back, in the order in which they are due."""

    def __init__(self) -> None:
        self._turn = count()
        self._held: list[tuple[float, int, int | None, bytes]] = []

    def __bool__(self) -> bool:
        return bool(self._held)

    def hold(self, until: float, strategy: int | None, record: bytes) -> None:
        """Hold a record, for listeners of `strategy`, until a monotonic time."""
        heapq.heappush(self._held, (until, next(self._turn), strategy, record))

    def release(self, now: float) -> Iterator[tuple[int | None, bytes]]:
        """Yield those that are due."""
        while self._held and self._held[0][0] <= now:
            _, _, strategy, record = heapq.heappop(self._held)
            yield strategy, record

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()


class User:
    """One API key: its strategies, its history, its listeners and its faults."""

    def __init__(
        self,
        name: str,
        key: str,
        strategies: tuple[int, ...],
        *,
        seed: int,
        form: Form,
        above: FaultScope,
        busy: set[User],
    ) -> None:
        """`above` are the hub's faults, which hold where the user has none of its own; `busy` wants its ticks."""
        self.name = name
        self.key = key
        self.strategies = strategies
        self.scope = FaultScope(above)
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
        self._held = _HeldPushes()

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
        """Emit `number` events: into the history, and to every subscriber.

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
        """Push an event to every subscriber, with the faults of pushes."""
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
                self._held.hold(now + wait, template.strategy, record)
            else:
                self._deliver(template.strategy, record)

    def inject(self, injection: Injection) -> int | None:
        """Send raw bytes, and return the number that they have in the hub's order; the truth has them as `raw`."""
        sequence = self._next if injection.sequence is None else injection.sequence
        header: Members = tuple(
            (name_in(self.form, name).encode(), value)
            for name, value in (
                ("EventId", b'"%b"' % self._source.uuid()),
                ("EventSeqId", b"%d" % sequence),
                ("EventTime", b'"%b"' % self._clock.write(self._clock.now())),
            )
        )
        raw = injection.raw
        for place, (_, value) in zip((b"$ID", b"$SEQUENCE", b"$TIME"), header, strict=True):
            raw = raw.replace(place, value.strip(b'"'))
        if not injection.numbered:
            sequence = self._next - 1
        injected = Injected(injection, raw, thinned(header, without_sequence=not injection.numbered))
        self.history.inject(sequence, injected, time.monotonic())
        self._next = max(self._next, sequence + 1)
        if injection.push:
            name = json.dumps(injection.callback).encode()
            self._deliver(
                None,
                raw + b"\x1e" if injection.is_record else b'{"type":1,"target":%b,"arguments":[%b]}\x1e' % (name, raw),
            )
        self.counts["injected"] += 1
        return sequence if injection.numbered else None

    def tick(self, seconds: float) -> None:
        """Let `seconds` pass: emit what is due, release what was held back for long enough."""
        if not self.paused:
            for emission in self.emissions:
                self.emit(emission.due(seconds), emission.callbacks)
            self.emissions = [emission for emission in self.emissions if emission.remaining != 0]
        for strategy, record in self._held.release(time.monotonic()):
            self._deliver(strategy, record)
        if not self._held and not self.emissions:
            self._busy.discard(self)

    def attach(self, listener: Subscriber) -> None:
        """Subscribe a connection; it may get at once the present signals and errors."""
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
