"""What can be wrong with the simulated hub: lasting faults, and answers prepared for the next calls.

A fault is a field of `Faults`; each is consulted at one place only, named in its docstring. To add a fault,
add a field here and read it at the place that it concerns: the admin API takes it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Final, Literal

import msgspec

from gateway.simulator.wire import Form

Chance = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, slots=True)
class Faults:
    """Lasting faults of a user or of the whole hub; the defaults are a hub in good health."""

    duplicate: Chance = 0.0
    """Pushes sent twice (User.push)."""
    drop: Chance = 0.0
    """Pushes never sent; the history has the event (User.push)."""
    delay: Seconds = 0.0
    """How long each push is held back (User.push)."""
    reorder: Seconds = 0.0
    """Each push is held back by a random time up to this, so that pushes overtake one another (User.push)."""
    sequence_missing: Chance = 0.0
    """Pushes without EventSeqId; the history has it (User.push)."""
    sequence_zero: Chance = 0.0
    """Pushes with EventSeqId 0; the history has the real one (User.push)."""
    sequence_step: Positive = 1
    """Sequence ids rise by a random step from 1 to this (User.emit)."""
    history_lag: Seconds = 0.0
    """How long GetEventsSince does not know an event (History)."""
    latest_lag: Seconds = 0.0
    """How long GetLatestEventSeqId does not know an event (History)."""
    straggle: Chance = 0.0
    """Events that the history shows only `straggle_seconds` later, after those numbered behind them (History)."""
    straggle_seconds: Seconds = 2.0
    """See `straggle`."""
    forget_below: Natural = 0
    """Retention: the history no longer has events numbered below this (History)."""
    max_events_limit: Positive = 1000
    """Largest Limit of GetEventsSince (methods)."""
    empty_end_token: bool = False
    """The last page's ContinuationToken is an empty string instead of null (methods)."""
    repeat_token: bool = False
    """GetEventsSince never ends: past the last event it gives the same token again and again (methods)."""
    slow: Mapping[str, Seconds] = field(default_factory=dict)
    """Seconds that a method takes, by its name; `*` stands for all others (methods)."""
    silent: bool = False
    """Nothing leaves any WebSocket of the user, pings and handshakes included (Connection.write)."""
    split: Natural = 0
    """Longest WebSocket message in bytes, so that records are split over several; 0: no limit (Connection.write)."""
    token_seconds: Seconds | None = None
    """A connection's token expires this long after the connection began (Server.watch)."""
    redirects: Natural = 0
    """How many times negotiation sends the client on before it answers (Server.negotiate)."""
    active_signals: bool = False
    """Signals and errors that are on are pushed as soon as a client connects (User.attach)."""
    form: Form | None = None
    """Wire form of what is emitted and answered from now on (User.form)."""

    @property
    def disturb_pushes(self) -> bool:
        """Whether a push may be anything but sent once, whole and at once."""
        return bool(
            self.duplicate or self.drop or self.delay or self.reorder or self.sequence_missing or self.sequence_zero
        )


HEALTHY: Final = Faults()


class Scope:
    """The faults of the hub or of one user: what was set here, over what holds above."""

    def __init__(self, above: Scope | None = None, initial: Faults = HEALTHY) -> None:
        """`above` is the hub's scope where this is a user's; `initial` only matters without one."""
        self._above = above
        self._initial = initial
        self._set: dict[str, object] = {}
        self._made_from: tuple[Faults, int] | None = None
        self._version = 0
        self._effective = initial

    @property
    def faults(self) -> Faults:
        """What holds now."""
        above = self._above.faults if self._above is not None else self._initial
        if self._made_from is None or self._made_from[0] is not above or self._made_from[1] != self._version:
            self._effective = _merged(above, self._set)
            self._made_from = (above, self._version)
        return self._effective

    def patch(self, changes: Mapping[str, object]) -> Faults:
        """Set the named fields, or with None take them back; raises ValueError for what is no such fault."""
        if unknown := changes.keys() - {item.name for item in fields(Faults)}:
            raise ValueError(f"unknown faults: {', '.join(sorted(unknown))}")
        wanted = {name: value for name, value in {**self._set, **changes}.items() if value is not None}
        _merged(HEALTHY, wanted)
        self._set = wanted
        self._version += 1
        return self.faults

    def clear(self) -> Faults:
        """Take back everything that was set here."""
        self._set = {}
        self._version += 1
        return self.faults


def _merged(above: Faults, changes: Mapping[str, object]) -> Faults:
    """Raises msgspec.ValidationError, a ValueError, for a value that a fault cannot have."""
    return msgspec.convert({**asdict(above), **changes}, Faults) if changes else above


@dataclass(slots=True)
class Refusal:
    """Connects to be refused: a number of them, or all until a moment."""

    status: int
    """The HTTP status to refuse with."""
    retry_after: int | None = None
    """Seconds in Retry-After."""
    count: int | None = None
    """How many more; None: no limit."""
    until: float | None = None
    """Monotonic time when it ends; None: never."""
    at: Literal["negotiate", "upgrade", "any"] = "any"
    """Which request to refuse."""

    def takes(self, step: str, now: float) -> bool:
        """Say whether the connect at `step` is refused, and count it."""
        if self.over(now) or self.at not in (step, "any"):
            return False
        if self.count is not None:
            self.count -= 1
        return True

    def over(self, now: float) -> bool:
        """Say whether there is nothing left to refuse."""
        return self.count == 0 or (self.until is not None and now >= self.until)


@dataclass(slots=True)
class Failure:
    """Calls of a method that are about to fail."""

    method: str = "*"
    """The method's name; `*` stands for any."""
    count: int = 1
    """How many more calls fail."""
    hub_exception: str | None = None
    """The words of a HubException; the call's completion has an error."""
    status: str = "InternalError"
    """Name of the envelope's status, where there is no `hub_exception`."""
    status_number: int = 4
    """Its number."""
    code: str = "INTERNAL"
    detail: str = "try again"
