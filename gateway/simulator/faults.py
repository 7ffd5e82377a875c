"""The faults of the simulated hub: lasting ones, and answers prepared for the next calls.

A fault is a field of `Faults`; each is consulted at one place only, named in its docstring. To add a fault, add a field
here and read it at the place that it concerns: the admin API takes it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Final, Literal

import msgspec

from gateway.simulator.payloads import ENUMS
from gateway.simulator.wire import DIGITS, Form, Zone

Chance = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, slots=True)
class Faults:
    """Lasting faults of a user or of the whole hub; the defaults are a hub in good health.

    The truth, `emitted`, has every event once under the number that the hub ordered it by, its payload as it was
    written. A fault changes what is shown and when; where it also changes the truth, its docstring says so.
    """

    # Pushes
    duplicate: Chance = 0.0
    """Pushes sent twice (User.push)."""
    drop: Chance = 0.0
    """Pushes never sent; the history has the event (User.push)."""
    delay: Seconds = 0.0
    """How long each push is held back (User.push)."""
    reorder: Seconds = 0.0
    """Each push is held back by a random time up to this, so that pushes overtake one another (User.push)."""
    sequence_missing: Chance = 0.0
    """Pushes without EventSeqId; the truth has its number (User.push)."""
    sequence_zero: Chance = 0.0
    """Pushes with EventSeqId 0; the truth has its number (User.push)."""
    id_missing: Chance = 0.0
    """Pushes without EventId; the truth has it (User.push)."""
    active_signals: bool = False
    """Signals and errors that are on are pushed as soon as a client connects: repeats of the truth (User.attach)."""

    # Events
    sequence_step: Positive = 1
    """Sequence ids rise by a random step from 1 to this, in the truth too (User.emit)."""
    unknown_kind: Chance = 0.0
    """Events of a callback that the reference does not have; the truth names it `OnMarginCall` (User.emit)."""
    live_only: Chance = 0.0
    """Events that the history never shows: the truth has what only a push could bring (User.emit)."""
    form: Form | None = None
    """Wire form of what is emitted and answered from now on; payloads in the truth have it too (User.form)."""
    decimals_as_text: bool = False
    """Decimals are JSON strings, in the truth too (User.style)."""
    integers_as_text: bool = False
    """Integers are JSON strings, in the truth and in answers too (User.style)."""
    nulls_left_out: bool = False
    """Members that are null are left out, in the truth and in answers too (User.style)."""
    enums: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Enums declared in this order, so that their members have these numbers, in the truth too (User.style)."""
    time_zone: Zone = "utc"
    """Times end in `Z`, are `offset` by +05:30, or are `unmarked`; payloads in the truth too (User.style)."""
    time_digits: Annotated[int, msgspec.Meta(ge=0, le=DIGITS)] = DIGITS
    """Fraction digits of times at the most; payloads in the truth have no more either (User.style)."""
    unknown_members: bool = False
    """Payloads have members that the reference does not have, in the truth too (User.style)."""

    # History
    history_lag: Seconds = 0.0
    """How long GetEventsSince does not know an event (History)."""
    latest_lag: Seconds = 0.0
    """How long GetLatestEventSeqId does not know an event (History)."""
    straggle: Chance = 0.0
    """Events that the history shows only `straggle_seconds` later, after those numbered behind them (User.emit)."""
    straggle_seconds: Seconds = 2.0
    """See `straggle`."""
    forget_below: Natural = 0
    """Retention: the history no longer has events numbered below this; the truth has them (History)."""
    history_sequence_missing: Chance = 0.0
    """Entries without EventSeqId, the same events as at `sequence_missing`; the truth has the number (Wrapping)."""
    history_id_missing: Chance = 0.0
    """Entries without EventId, the same events as at `id_missing`; the truth has it (Wrapping)."""
    discriminator: Literal["EventType", "Type", "EventName", "Callback", "CallbackName", "Method", "Name"] = "EventType"
    """The member of an entry that says which event it is (Wrapping)."""
    discriminator_value: Literal["model", "model-event", "callback", "callback-event"] = "model"
    """What it says: `OrderUpdate`, `OrderUpdateEvent`, `OnOrderUpdate` or `OnOrderUpdateEvent` (Wrapping)."""
    discriminator_case: Literal["pascal", "camel", "lower", "upper"] = "pascal"
    """In which letter case it says so (Wrapping)."""
    payload_member: Literal["Payload", "Event", "Data", "Args", "Body"] = "Payload"
    """The member of an entry that holds the payload (Wrapping)."""
    payload_as: Literal["object", "list", "text", "flat"] = "object"
    """Whether it holds an object, a list of one, JSON as a text, or is not there and its members are (Wrapping)."""
    header_in: Literal["both", "envelope", "payload", "differing"] = "both"
    """Where an entry has EventId, EventSeqId and EventTime; where they are `differing`, the truth has the payload's
    (Wrapping)."""

    # Methods
    max_events_limit: Positive = 1000
    """Largest Limit of GetEventsSince (methods)."""
    unservable: tuple[int, ...] = ()
    """Numbers of events that the hub cannot give: a page with one of them is an error (methods)."""
    page_end: Literal["null", "empty", "missing", "repeat", "fresh"] = "null"
    """The last page's ContinuationToken: null, an empty string, left out; or there is no last page: past the last
    event come empty ones for ever, with the same token each time or with a fresh one (methods)."""
    page_token_seconds: Seconds | None = None
    """A ContinuationToken is refused this long after it was given (methods)."""
    pages_unsorted: bool = False
    """The events of a page are in no order (methods)."""
    empty_pages: Natural = 0
    """So many pages without events, each with a token that leads on, between any two pages with events (methods)."""
    empty_start: Natural = 0
    """The same before the first page (methods)."""
    answer_data: Literal["Data", "Payload", "Result", "Value"] = "Data"
    """The member of a successful answer that holds what was asked for (methods)."""
    answer_status: Literal["usual", "number", "name", "lower", "digits", "absent"] = "usual"
    """Its Status: as the form has it, 0, "Success", "success", "0", or left out (methods)."""
    answer_bare: bool = False
    """What was asked for is the whole answer, without an envelope (methods)."""
    failed_strategies: tuple[int, ...] = ()
    """Strategies that SubscribeToStrategies says it cannot subscribe to (methods)."""
    slow: Mapping[str, Seconds] = field(default_factory=dict)
    """Seconds that a method takes, by its name; `*` stands for all others. `negotiate`, `upgrade` and `handshake`
    are steps that can be slow too, but `*` does not mean them (methods, Server, Connection)."""

    # Connections
    silent: bool = False
    """Nothing leaves any WebSocket of the user, pings and handshakes included (Connection.write)."""
    split: Natural = 0
    """Longest WebSocket message in bytes, so that records are split over several; 0: no limit (Connection.write)."""
    token_seconds: Seconds | None = None
    """A connection's token expires this long after the connection began (Server.watch)."""
    redirects: Natural = 0
    """How many times negotiation sends the client on before it answers (Server.negotiate)."""
    negotiate_html: bool = False
    """Negotiation answers 200 with a page of HTML, as a portal or a proxy in between does (Server.negotiate)."""

    def __post_init__(self) -> None:
        """Raise ValueError for an invalid order."""
        for enum, names in self.enums.items():
            declared = sorted(member.name for member in ENUMS.get(enum, ()))
            if sorted(names) != declared:
                right = f"{', '.join(declared)}, in any order, would be right" if declared else "there is no such enum"
                raise ValueError(f"enums.{enum}: {right}")

    @property
    def disturb_pushes(self) -> bool:
        """Whether a push may be anything but sent once, whole and at once."""
        chances = self.duplicate or self.drop or self.sequence_missing or self.sequence_zero or self.id_missing
        return bool(chances or self.delay or self.reorder)


HEALTHY: Final = Faults()


class FaultScope:
    """The faults of the hub or of one user: what was set here, over what holds above."""

    def __init__(self, above: FaultScope | None = None, initial: Faults = HEALTHY) -> None:
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
        """Return whether the connect at `step` is refused, and count it."""
        if self.over(now) or self.at not in (step, "any"):
            return False
        if self.count is not None:
            self.count -= 1
        return True

    def over(self, now: float) -> bool:
        """Return whether there is nothing left to refuse."""
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
