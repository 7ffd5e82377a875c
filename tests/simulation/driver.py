"""One account's life in virtual time: connections, calls, commits and crashes around a real session.

It does what the account and the shard do, in the same order, and lets everything between two of their steps
go wrong: calls fail, answers come late, connections drop, commits are stored or not and their answers lost,
the process dies. Every choice is drawn from the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from gateway.errors import Diverged
from gateway.events.event import Notification
from gateway.session.checkpoint import Anchor, decode_checkpoint, encode_checkpoint, reset_checkpoint
from gateway.session.session import Session
from gateway.session.types import Batch, Outcome, OutgoingItem, Page, SessionLimits, State
from tests.simulation.hub_model import ACCOUNT, NEVER, Happening, HubModel, Weather

MakeSession = Callable[..., Session]

STRANGE = 1_000_000
"""Numbers of what happens in strangers' hubs begin here."""


@dataclass(frozen=True)
class Fate:
    """What happens to one run from outside, drawn from the seed."""

    events: int
    rate: float
    drops: float
    """A second."""
    crashes: float
    restart_every: float | None
    refused_commits: float
    lost_answers: float
    shortened: tuple[float, ...]
    """When the history loses its beginning."""
    reset_at: float | None
    """When the hub starts again from 1, or the key becomes another user's."""
    is_mended: bool
    """Whether an operator resets the checkpoint then."""
    strange: tuple[float, float] | None
    """From when to when the hub, or the key, is another user's."""
    subscriptions: tuple[tuple[float, tuple[int, ...] | None], ...]
    outage: tuple[float, float] | None
    """From when to when every page fails, or no connection can be made."""
    is_away: bool
    start: str | int
    buffer_bytes: int
    interval_bytes: int
    batch: int
    idle_broker: float

    @classmethod
    def drawn(cls, random: Random, weather: Weather) -> Fate:
        events, rate = random.randint(10, 60), random.choice([2.0, 8.0, 30.0])
        length = events / rate + weather.grace
        outages = Random(f"outage {events} {weather}")
        outage = None
        shortened: tuple[float, ...] = ()
        if outages.random() < 0.3:
            begins = outages.uniform(0.3, 0.3 + events / rate)
            outage = begins, begins + outages.uniform(0, 3 * weather.grace)
            if outages.random() < 0.5:
                shortened = (outage[1] - 0.01,)
        subscriptions: tuple[tuple[float, tuple[int, ...] | None], ...] = ()
        if weather.strategies:
            changes = sorted(random.uniform(0, length) for _ in range(random.choice([0, 1, 2, 4])))
            subscriptions = tuple((at, _strategies(random, weather.strategies)) for at in changes)
        return cls(
            events=events,
            rate=rate,
            drops=random.choice([0, 0, 0.2, 1.0]),
            crashes=random.choice([0, 0, 0.1, 0.5]),
            restart_every=random.choice([None, None, None, 0.6 * weather.grace]),
            refused_commits=random.choice([0, 0, 0.1]),
            lost_answers=random.choice([0, 0, 0.1]),
            shortened=shortened or ((random.uniform(0, length),) if random.random() < 0.1 else ()),
            reset_at=random.uniform(weather.grace, 2 * length) if random.random() < 0.1 else None,
            is_mended=random.random() < 0.5,
            strange=cls._strange(length),
            subscriptions=subscriptions,
            outage=outage,
            is_away=bool(shortened) or outages.random() < 0.3,
            start=random.choice(["earliest", "earliest", "latest", 5]),
            buffer_bytes=random.choice([8 * 1024 * 1024, 8 * 1024 * 1024, 6000]),
            interval_bytes=random.choice([64 * 1024, 64 * 1024, 600]),
            batch=random.choice([1, 3, 1000]),
            idle_broker=random.choice([0.0, 0.0, 0.5, 0.95]),
        )

    @staticmethod
    def _strange(length: float) -> tuple[float, float] | None:
        random = Random(f"strange {length}")  # apart, so that the other draws of a seed stay what they were
        if random.random() < 0.5:
            return None
        begins = random.uniform(0, length)
        return begins, begins + random.uniform(0.05, 1.5 * length)


def _strategies(random: Random, count: int) -> tuple[int, ...] | None:
    return None if random.random() < 0.4 else tuple(random.sample(range(count), random.randint(0, count)))


@dataclass(frozen=True)
class Published:
    """One message as a reader of the log sees it."""

    item: OutgoingItem
    hub: int
    """Which history the checkpoint of its commit belongs to: 0 until an operator declares another."""


@dataclass
class _Flight:
    """A call that is on its way."""

    session: Session
    lands_at: float
    land: Callable[[], None]


@dataclass
class Life:
    """The run of one seed."""

    seed: int
    make_session: MakeSession = Session
    is_atomic: bool = True
    takes_failures_for_ends: bool = False
    published: list[Published] = field(default_factory=list)
    stored: bytes | None = None
    outcomes: dict[int, set[Outcome]] = field(default_factory=dict)
    """By a happening's number: what became of its pushes."""
    accepted: dict[int, object] = field(default_factory=dict)
    """By a happening's number: the session that last took its push."""
    diverged: str | None = None
    change_bounds: list[tuple[int, tuple[int, ...] | None]] = field(default_factory=list)
    """The hub's latest at each change of the subscription."""
    largest_checkpoint: int = 0
    began_at: int | None = None
    """The sequence after which the account began."""
    began_time: float = 0.0
    initial: list[frozenset[int] | None] = field(default_factory=list)
    """By incarnation: the subscription that held from its beginning."""
    anchor_at_reset: Anchor | None = None
    """The anchor that there was when the hub started again."""
    was_verified_at_cut: bool = False
    """Whether any event was, when the history lost its beginning."""

    def __post_init__(self) -> None:
        self.random = random = Random(self.seed)
        self.weather = Weather.drawn(random)
        self.fate = Fate.drawn(random, self.weather)
        if self.fate.reset_at is not None or self.fate.strange is not None:
            self.weather = replace(self.weather, nameless=0.0)  # what has no EventId cannot tell two hubs apart
        if self.fate.shortened:
            # One event cannot overlap another, and of two events of one number none may be lost alone.
            self.weather = replace(self.weather, page=max(2, self.weather.page), reused=0.0)
        self.now = 0.0
        self.hubs = [HubModel(self.weather, random)]
        self.hub = self.hubs[0]
        self.peer = self.hub
        """The hub that connections reach now: `hub`, or a stranger for a while."""
        self.strangers: list[HubModel] = []
        self._strange = self.fate.strange
        self._delivered: list[int] = []
        """The happenings that were pushed over the connection that stands."""
        self._was_live = False
        """Whether the session was live over it."""
        self.incarnation = 0
        self.settings = SessionLimits(
            grace=self.weather.grace,
            buffer_bytes=self.fate.buffer_bytes,
            interval_bytes=self.fate.interval_bytes,
        )
        self.quiet = False
        self._next_event = random.expovariate(self.fate.rate)
        self._emitted = 0
        self._next_restart = self.fate.restart_every
        self._subscriptions = list(self.fate.subscriptions)
        self._shortened = list(self.fate.shortened)
        self._desired: tuple[int, ...] | None = None
        self._flight: _Flight | None = None
        self._commit: tuple[Session, Batch] | None = None
        self._pause_until = 0.0
        self._next_audit = 0.0
        self._known = False
        if random.random() < 0.3 or self.fate.shortened:  # the hub has a past
            for moment in sorted(random.random() for _ in range(random.randint(1, 20))):
                self.hub.happen(moment - 2 * self.weather.grace)
            self.hub._pending.clear()
            for happening in self.hub.happenings:
                happening.pushed_at = ()
        self._attach()
        self._disconnect()

    # The way of a run -----------------------------------------------------------------------------------

    def live(self) -> None:
        """Live until everything has happened, then in peace until nothing changes any more."""
        while not self.quiet and self.diverged is None:
            self._tick()
            is_over = (
                self.peer is self.hub
                and self._emitted >= self.fate.events
                and not self._subscriptions
                and not self._shortened
            )
            is_over = is_over and (self.fate.outage is None or self.now > self.fate.outage[1])
            if is_over and (self.fate.reset_at is None or len(self.hubs) > 1):
                self.quiet = True
        end = self.now + 60 * self.weather.grace
        calm = 0
        while self.now < end and self.diverged is None and calm < 3:
            self._tick()
            if self._is_settled():
                calm += 1
                self.now += 1.2 * self.weather.grace  # one more audit must not change anything
                self._next_audit = self.now
            else:
                self.now += self.weather.grace / 50

    def _is_settled(self) -> bool:
        session = self.session
        if session.state is not State.LIVE or session.history.wants() or session.wants_latest or session.queued_bytes:
            return False
        if any(self.now < h.visible_at < NEVER for h in self.hub.happenings):
            return False
        visible = [h.sequence or 0 for h in self.hub.history(self.now) if h.in_history.sequence]
        return (
            self._flight is None and self._commit is None and session.checkpoint().verified >= max(visible, default=0)
        )

    def _tick(self) -> None:
        random = self.random
        self._was_live = self._was_live or self.session.state is State.LIVE
        self.now += random.choice([0.001, 0.01, 0.05, 0.05, 0.2])
        self._happen()
        self._push()
        for _ in range(random.randint(1, 6)):
            if self.diverged is None:
                self._account_step()
            if self.quiet or random.random() >= self.fate.idle_broker:
                self._shard_step()
        if not self.quiet and self.diverged is None:
            self._strike()

    def _happen(self) -> None:
        while self._next_event <= self.now and self._emitted < self.fate.events:
            self.hub.happen(self._next_event)
            self._emitted += 1
            self._next_event += self.random.expovariate(self.fate.rate)
        while self._shortened and self._shortened[0] <= self.now:
            self._shortened.pop(0)
            self.hub.shorten(self.now)
            before = None if self.stored is None else decode_checkpoint(self.stored)
            is_same_hub = self.incarnation == len(self.hubs) - 1
            self.was_verified_at_cut = before is not None and is_same_hub and before.verified > (self.began_at or 0)
        if self.fate.reset_at is not None and self.now >= self.fate.reset_at and len(self.hubs) == 1:
            first = len(self.hub.happenings)
            self.hub = HubModel(self.weather, self.random, first)
            self.hubs.append(self.hub)
            self.peer = self.hub
            self._strange = None
            self._emitted -= self.random.randint(0, self.fate.events)
            self.anchor_at_reset = None if self.stored is None else decode_checkpoint(self.stored).anchor
            self._disconnect()

        if self._strange is not None and self.now >= self._strange[0] and self.peer is self.hub:
            self._begin_strange()
        if self._strange is not None and self.now >= self._strange[1]:
            self._strange = None
            if self.peer is not self.hub:
                self.peer = self.hub
                self._disconnect()

    def _begin_strange(self) -> None:
        """Let connections reach another hub, unless it could not be told from the one that lost its beginning."""
        anchor = None if self.stored is None else decode_checkpoint(self.stored).anchor
        if anchor is None or self.hub.cut or self._shortened:
            self._strange = None
            return
        steady = dict.fromkeys(
            ("lag", "latest_lag", "push_only", "half_sequenced", "slow", "tardy", "reused", "bogus"), 0.0
        )
        mild = replace(self.weather, ragged=False, stride=1, **steady)
        stranger = HubModel(mild, self.random, STRANGE * (len(self.strangers) + 1))
        for _ in range(self.random.randint(1, 30)):
            stranger.happen(self.now - 3 * self.weather.grace)
        begins = next((h.sequence for h in stranger.happenings if h.sequence is not None), None)
        if begins is None or begins > anchor.sequence:
            self._strange = None
            return
        self.peer = stranger
        self.strangers.append(stranger)
        self.peer._sequence = max(self.peer._sequence, self.random.choice([0, 0, anchor.sequence, 2 * anchor.sequence]))
        self.peer._pending.clear()
        self._disconnect()

    def _push(self) -> None:
        if self.peer is not self.hub and self.random.random() < 0.2:
            self.peer.happen(self.now)
        for hub in (self.hub, self.peer) if self.peer is not self.hub else (self.hub,):
            for happening in hub.due(self.now):
                is_subscribed = self._listens and (
                    self._subscribed is None or happening.strategy in {None, *self._subscribed}
                )
                if is_subscribed and hub is self.peer:
                    self._deliver(happening)
        session = self.session
        if session.deadline is not None and session.deadline <= self.now:
            session.expire(self.now)

    def _deliver(self, happening: Happening) -> None:
        if self.session.state is State.OFFLINE:
            return
        outcome = self.session.on_push(happening.as_push, self.now)
        self._delivered.append(happening.number)
        self.outcomes.setdefault(happening.number, set()).add(outcome)
        self.accepted[happening.number] = self.session

    # The account ----------------------------------------------------------------------------------------

    def _disconnect(self) -> None:
        self._phase = "away"
        self._listens = False
        self._subscribed: tuple[int, ...] | None = None
        self._flight = None
        self._pause_until = self.now + self.random.choice([0.0, 0.1, 1.0, 3.0])
        self.session.on_disconnected()
        if not self._was_live:  # nothing of it need be trusted: as if there had been no room
            for number in self._delivered:
                self.outcomes[number].add(Outcome.OVERFLOW)
        self._delivered, self._was_live = [], False

    def _account_step(self) -> None:
        if self.now < self._pause_until:
            return
        try:
            self._follow()
        except Diverged as error:
            self._diverge(str(error))

    def _follow(self) -> None:
        session = self.session
        if self._phase == "away":
            session.on_connected()
            self._phase = "connected"
            self._show_again()
        elif self._phase == "connected":
            if not self._fails():
                self._listens, self._subscribed = True, self._desired
                self._phase = "asked"
        elif self._phase == "asked":
            session.on_subscribed()
            self._phase = "serving"
            self._next_audit = self.now + self.weather.grace
        elif self._flight is not None:
            self._land(self._flight)
        elif session.state is State.OFFLINE:  # a new session over the connection that stands
            session.on_connected()
            session.on_subscribed()
        else:
            self._serve(session)

    def _show_again(self) -> None:
        """On connect the hub pushes what is on, which may repeat what it gave."""
        if self.random.random() < 0.5:
            return
        shown = [h for h in self.peer.happenings if min(h.visible_at, *h.pushed_at, NEVER) <= self.now]
        for happening in self.random.sample(shown, min(3, len(shown))):
            if happening.as_push.sequence is not None or happening.number in self.outcomes:
                self._deliver(happening)

    def _serve(self, session: Session) -> None:
        if session.wants_latest:
            self._ask_latest(session)
        elif (request := session.history.wants()) is not None:
            failed = self._fails() or self._is_out
            if failed and not self.takes_failures_for_ends:
                self._pause_until = self.now + 0.05
                return
            contents, token = (
                ([], None) if failed else self.peer.page(request.since, request.token, self.now, honest=self.quiet)
            )

            def land() -> None:
                if (
                    session.history.on_page(Page(request, contents, token), self.now)
                    and session.state is State.CATCHING_UP
                ):
                    self._pause_until = self.now + 0.2
                    self._ask_latest(session)

            self._fly(session, land)
        elif session.state is State.LIVE and self.now >= self._next_audit:
            self._next_audit = self.now + 0.5 * self.weather.grace
            self._ask_latest(session, audit=True)

    def _ask_latest(self, session: Session, *, audit: bool = False) -> None:
        if self._fails():
            return
        latest, time, ours = self.peer.latest(self.now), self.weather.clock(self.now), 10**9 + self.now

        def land() -> None:
            session.on_latest(latest, time, ours)
            if audit:
                session.history.audit()

        self._fly(session, land)

    def _fly(self, session: Session, land: Callable[[], None]) -> None:
        latency = 0.0 if self.random.random() < 0.5 else self.random.expovariate(1 / 0.03)
        self._flight = _Flight(session, self.now + latency, land)

    def _land(self, flight: _Flight) -> None:
        if flight.lands_at <= self.now:
            self._flight = None
            if flight.session is self.session:
                flight.land()

    @property
    def _is_out(self) -> bool:
        outage = self.fate.outage
        return outage is not None and outage[0] <= self.now <= outage[1]

    def _fails(self) -> bool:
        return not self.quiet and self.random.random() < self.weather.failing

    def _diverge(self, reason: str) -> None:
        if self.peer is not self.hub:
            self._disconnect()  # and it is looked at again later, with the same session
        elif len(self.hubs) > 1 and self.fate.is_mended and self.incarnation == 0:
            self.incarnation = 1
            old = None if self.stored is None else decode_checkpoint(self.stored)
            wanted = None if self._desired is None else frozenset(self._desired)
            new = reset_checkpoint(1 if old is None else old.incarnation + 1, 0, wanted)
            self.stored = encode_checkpoint(new)
            self.began_at = self.began_at or 0
            self.initial = [*(self.initial or [None]), new.subscriptions[0].strategies]
            self._commit = None
            self._disconnect()
            self._attach()
        else:
            self.diverged = reason

    # The shard ------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        checkpoint = None if self.stored is None else decode_checkpoint(self.stored)
        self.session = self.make_session(ACCOUNT, checkpoint, start=self.fate.start, settings=self.settings)
        if self.session.strategies != (None if self._desired is None else frozenset(self._desired)):
            self._change(self._desired)
        self._flight = None
        self._delivered, self._was_live = [], False

    def _shard_step(self) -> None:
        if self._commit is None:
            batch = self.session.take(self.random.randint(1, self.fate.batch), self.random.choice([600, 5000, 10**6]))
            if batch is not None:
                self._commit = (self.session, batch)
            return
        _, batch = self._commit
        self._commit = None
        draw = 1.0 if self.quiet else self.random.random()
        if draw < self.fate.refused_commits:
            self._reopen()
            return
        self._store(batch)
        if draw < self.fate.refused_commits + self.fate.lost_answers:
            self._reopen()

    def _store(self, batch: Batch) -> None:
        if not self.is_atomic and self.random.random() < 0.3 and not self.quiet:
            self.published += [Published(item, self.incarnation) for item in batch.items]
            self._crash()  # between the messages and the checkpoint
            return
        if self.began_at is None:
            first = decode_checkpoint(batch.checkpoint)
            self.began_at, self.began_time = first.verified, self.now
            self.initial.append(first.subscriptions[0].strategies)
            sent = [item for item in batch.items if not isinstance(item.content, Notification)]
            assert not sent, "the first checkpoint is committed before anything else"
        self.published += [Published(item, self.incarnation) for item in batch.items]
        self.stored = batch.checkpoint
        self.largest_checkpoint = max(self.largest_checkpoint, len(batch.checkpoint))

    def _reopen(self) -> None:
        """The log is opened again; the connection may stand meanwhile."""
        if self.random.random() < 0.3:
            self._disconnect()
        self._attach()

    def _crash(self) -> None:
        if self._commit is not None and self.random.random() < 0.5:
            _, batch = self._commit
            self._commit = None
            self._store(batch)
        self._commit = None
        self._disconnect()
        self._attach()

    # What strikes ---------------------------------------------------------------------------------------

    def _strike(self) -> None:
        random, fate = self.random, self.fate
        if self._is_out and fate.is_away and fate.outage is not None:
            if self._phase != "away":
                self._disconnect()
            self._pause_until = fate.outage[1]
        if random.random() < fate.drops * 0.06 and self._phase != "away":
            self._disconnect()
        if random.random() < fate.crashes * 0.06:
            self._crash()
        if self._next_restart is not None and self.now >= self._next_restart:
            self._next_restart = self.now + (fate.restart_every or 0)
            self._crash()
        if self._subscriptions and self._subscriptions[0][0] <= self.now:
            _, self._desired = self._subscriptions.pop(0)
            self._change(self._desired)

    def _change(self, desired: tuple[int, ...] | None) -> None:
        self.change_bounds.append((self.hub.latest(self.now), desired))
        self._subscribed = desired
        self.session.subscribe(desired)


def can_distinguish_hubs(life: Life) -> bool:
    """Return whether a hub that started again can be known: what it shows first is at or below the anchor."""
    anchor, shown = life.anchor_at_reset, [h for h in life.hub.happenings[life.hub.cut :] if h.visible_at < NEVER]
    begins = next((h.in_history.sequence for h in shown if h.in_history.sequence), None)
    weather = life.weather
    is_in_order = (not weather.ragged or weather.lag == 0) and not weather.slow and not weather.tardy
    return is_in_order and anchor is not None and begins is not None and begins <= anchor.sequence
