"""A hub by its own rules: what happened in it, what it pushes and what its history shows at which time.

It shares nothing with the session but the records that cross the wire. It is the truth that the checker
compares the published list with.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import Final

from gateway.events.event import DeadLetter, Event

ACCOUNT: Final = "acme"
_YEAR: Final = datetime(2026, 11, 22)  # noqa: DTZ001 - UTC throughout
NEVER: Final = float("inf")


def clock(seconds: float) -> str:
    """Return the hub's time of day, with its seven digits."""
    whole, rest = divmod(round(seconds * 10_000_000), 10_000_000)
    return f"{(_YEAR + timedelta(seconds=whole)).isoformat()}.{rest:07d}Z"


@dataclass(frozen=True)
class Weather:
    """How the hub behaves in one run; everything is drawn from the seed."""

    grace: float
    lag: float
    """Seconds that history may lag behind live."""
    ragged: bool
    """Whether each event lags by itself, so that history has holes for a while."""
    latest_lag: float
    stride: int
    """The largest step from one sequence to the next."""
    unpushed: float
    """Parts of one: events that are never pushed, and so on."""
    push_only: float
    unsequenced: float
    half_sequenced: float
    nameless: float
    undecodable: float
    future: float
    duplicated: float
    reordered: float
    failing: float
    lying: float
    page: int
    strategies: int
    past: float
    """Events that happened long before they are stored, by their times."""
    slow: float
    """Events whose number is given early, and that are stored and pushed late: within the grace."""
    tardy: float
    """Likewise, and later than that."""
    garbled: float
    """Events that are pushed so that they cannot be decoded, and are whole in the history."""
    reused: float
    """Events that have the number of the one before."""
    bogus: float
    """Events that are pushed with a number far too high, and that history does not show."""
    mood: str
    """What the hub's clock does: `right`, or `jumps`, `drifts`, `stands`."""
    mood_at: float
    """When it begins, in seconds."""
    mood_by: float
    """In seconds for a jump, else the clock's rate."""

    @classmethod
    def drawn(cls, random: Random) -> Weather:
        def maybe(chance: float, value: float) -> float:
            return value * random.random() if random.random() < chance else 0.0

        grace = random.choice([1.0, 5.0, 30.0])
        weather = cls(
            grace=grace,
            lag=maybe(0.7, 0.8 * grace),
            ragged=random.random() < 0.5,
            latest_lag=maybe(0.3, 0.5),
            stride=random.choice([1, 1, 3, 10**9]),
            unpushed=maybe(0.4, 0.3),
            push_only=maybe(0.2, 0.1),
            unsequenced=maybe(0.3, 0.1),
            half_sequenced=maybe(0.3, 0.1),
            nameless=maybe(0.2, 1.0),
            undecodable=maybe(0.2, 0.2),
            future=maybe(0.1, 0.05),
            duplicated=maybe(0.5, 0.3),
            reordered=maybe(0.5, 0.5),
            failing=maybe(0.5, 0.4),
            lying=maybe(0.5, 0.3),
            page=random.choice([1, 3, 10, 50]),
            strategies=random.choice([0, 2, 5]),
            past=maybe(0.4, 0.5),
            slow=maybe(0.4, 0.3),
            tardy=maybe(0.2, 0.2),
            garbled=maybe(0.2, 0.3),
            reused=maybe(0.2, 0.2),
            bogus=maybe(0.2, 0.1),
            mood=(mood := random.choice(["right", "right", "right", "jumps", "drifts", "stands"])),
            mood_at=random.uniform(0, 3 * grace),
            mood_by=random.uniform(-5, 5) * grace if mood == "jumps" else random.uniform(0.5, 2),
        )
        if weather.nameless or weather.half_sequenced or weather.garbled:
            weather = replace(weather, reused=0.0)  # by EventId alone two events of one number are always told apart
        return weather if random.random() < 0.8 else weather.in_order(random)

    def in_order(self, random: Random) -> Weather:
        """Return the same where history lags but shows all in order: who waits for it sees nothing late."""
        return replace(
            self,
            lag=random.uniform(0.1, 0.8) * self.grace,
            ragged=False,
            unpushed=0.0,
            push_only=0.0,
            half_sequenced=0.0,
            duplicated=0.0,
            reordered=0.0,
            lying=0.0,
            slow=0.0,
            tardy=0.0,
            garbled=0.0,
            reused=0.0,
            bogus=0.0,
            mood="right",
        )

    def clock(self, now: float) -> str:
        """Return the time that the hub tells."""
        if now <= self.mood_at or self.mood == "right":
            return clock(now)
        match self.mood:
            case "jumps":
                return clock(now + self.mood_by)
            case "drifts":
                return clock(self.mood_at + (now - self.mood_at) * self.mood_by)
        return clock(self.mood_at)


@dataclass
class Happening:
    """One thing that happened in the hub, once."""

    number: int
    """Counts through a run, over all hubs of it: it stands in the body."""
    at: float
    sequence: int | None
    strategy: int | None
    in_history: Event | DeadLetter
    as_push: Event | DeadLetter
    visible_at: float
    pushed_at: tuple[float, ...]
    is_tardy: bool = False
    """It came into view later than the grace."""
    is_reused: bool = False
    """It has the number of the one before."""
    is_bogus: bool = False
    """It has a number far too high."""

    @property
    def is_garbled(self) -> bool:
        """Whether the push alone cannot be decoded."""
        return isinstance(self.as_push, DeadLetter) and isinstance(self.in_history, Event)


@dataclass
class HubModel:
    """One history. Another user's, or one that starts again, is another model."""

    weather: Weather
    random: Random
    first_number: int = 0
    happenings: list[Happening] = field(default_factory=list)
    cut: int = 0
    """How many of the first happenings the history no longer has."""
    _sequence: int = 0
    _pending: list[tuple[float, Happening]] = field(default_factory=list)

    def happen(self, now: float) -> None:
        """Let one thing happen."""
        weather, random = self.weather, self.random
        number = self.first_number + len(self.happenings)
        sequence, is_reused, is_bogus = self._numbered(number)
        half = sequence is not None and not is_bogus and not is_reused and random.random() < weather.half_sequenced
        # Without a sequence in one of the two, only the EventId makes them one event.
        id_ = None if random.random() < weather.nameless and not half else f"{random.getrandbits(64):016x}-{number}"
        strategy = random.randrange(weather.strategies) if weather.strategies and random.random() < 0.9 else None
        body, time = b"%d" % number, self._time(now)
        letter = DeadLetter(ACCOUNT, "invalid-payload", "", "", body, sequence, id_)
        if random.random() < weather.undecodable and not is_reused:
            content: Event | DeadLetter = letter
            strategy = None
        else:
            content = Event(ACCOUNT, "order-update", sequence, id_, time, strategy, body)
        blind = _without_sequence(content) if half else content
        history, push = (content, blind) if random.random() < 0.5 else (blind, content)
        if sequence is not None and not half and not is_reused and random.random() < weather.garbled:
            push = letter
        visible_at, pushed_at = self._shown(now, always=half and history is blind, never_alone=half)
        is_tardy = False
        if is_bogus:
            visible_at, pushed_at = NEVER, pushed_at or (now,)
        elif sequence is not None and not half and visible_at != NEVER:
            is_tardy = random.random() < weather.tardy
            if is_tardy or random.random() < weather.slow:
                visible_at = now + weather.grace * (random.uniform(1.1, 4) if is_tardy else random.uniform(0.2, 0.95))
                pushed_at = tuple(visible_at + moment - now for moment in pushed_at)
        happening = Happening(
            number, now, sequence, strategy, history, push, visible_at, pushed_at, is_tardy, is_reused, is_bogus
        )
        self.happenings.append(happening)
        self._pending += [(moment, happening) for moment in pushed_at]
        self._pending.sort(key=lambda pair: pair[0])

    def _numbered(self, number: int) -> tuple[int | None, bool, bool]:
        """Return the next sequence, whether it is that of the event before, and whether it is far too high."""
        weather, random, before = self.weather, self.random, self._sequence
        self._sequence += 1 if random.random() < 0.7 else random.randint(1, weather.stride)
        if random.random() < weather.unsequenced:
            self._sequence -= 1
            return None, False, False
        if before > 0 and random.random() < weather.reused:
            self._sequence = before
            return before, True, False
        if random.random() < weather.bogus:
            self._sequence = before
            return 10**15 + number, False, True
        return self._sequence, False, False

    def _time(self, now: float) -> str:
        if self.random.random() < self.weather.future:
            return clock(now + 10**8)
        return clock(now - 10**6) if self.random.random() < self.weather.past else self.weather.clock(now)

    def _shown(self, now: float, *, always: bool, never_alone: bool) -> tuple[float, tuple[float, ...]]:
        """Return when the history shows something that happens now, and when it is pushed, if it is."""
        weather, random = self.weather, self.random
        visible_at = now + weather.lag * (random.random() if weather.ragged else 1.0)
        if not always and random.random() < weather.unpushed:
            return visible_at, ()
        delay = random.expovariate(1 / 0.05) if random.random() < weather.reordered else 0.0
        pushed_at: tuple[float, ...] = (now + min(delay, 0.5),)
        if random.random() < weather.duplicated:
            pushed_at += (pushed_at[0] + random.choice([0.0, 0.01, 1.0, 5.0]),)
        return (NEVER if random.random() < weather.push_only and not never_alone else visible_at), pushed_at

    def due(self, now: float) -> list[Happening]:
        """Return what is pushed by now and was not before."""
        due = [happening for moment, happening in self._pending if moment <= now]
        del self._pending[: len(due)]
        return due

    def history(self, now: float) -> list[Happening]:
        return [happening for happening in self.happenings[self.cut :] if happening.visible_at <= now]

    def latest(self, now: float) -> int:
        reported = [h for h in self.happenings if h.at + self.weather.latest_lag <= now and not h.is_bogus]
        sequences = [h.sequence or 0 for h in reported]
        return max(sequences, default=0)

    def true_latest(self) -> int:
        return self._sequence

    def shorten(self, now: float) -> None:
        """Lose the beginning of the history, which keeps at least its grace."""
        old = sum(h.at <= now - self.weather.grace for h in self.happenings)
        self.cut = self.random.randint(self.cut, max(self.cut, old))

    def page(
        self, since: int, token: str | None, now: float, *, honest: bool
    ) -> tuple[list[Event | DeadLetter], str | None]:
        """Answer GetEventsSince; a token is a place among all that ever happened."""
        place = int(token) if token else self._place_after(since)
        visible = [
            at for at in range(max(place, self.cut), len(self.happenings)) if self.happenings[at].visible_at <= now
        ]
        given = visible[: self.weather.page]
        contents = [self.happenings[at].in_history for at in given]
        following = str(given[-1] + 1) if len(visible) > len(given) else None
        if honest or self.random.random() >= self.weather.lying:
            return contents, following
        match self.random.randrange(7):
            case 0:
                self.random.shuffle(contents)
            case 1:
                following = token or following
            case 2:
                contents, following = [], token or str(place)
            case 3:
                old = [h.in_history for h in self.happenings[self.cut : place] if h.visible_at <= now and h.sequence]
                contents = [*contents, *self.random.sample(old, min(3, len(old)))]
            case 4:
                contents = contents + contents[: self.random.randint(0, len(contents))]
            case 5:
                following = None
            case _:
                contents, following = [], None
        return contents, following

    def _place_after(self, since: int) -> int:
        places = (
            at + 1
            for at, h in enumerate(self.happenings)
            if h.sequence is not None and h.sequence <= since and not h.is_bogus
        )
        return max(places, default=0)


def _without_sequence(content: Event | DeadLetter) -> Event | DeadLetter:
    if isinstance(content, Event):
        return Event(content.account, content.kind, None, content.id, content.time, content.strategy, content.body)
    return DeadLetter(content.account, content.reason, content.detail, content.place, content.raw, None, content.id)
