"""Makes events of all 17 kinds, seeded and fast.

A pool of templates is rendered once for a seed, a form and a set of strategies; an event is then a template
with a few places filled, which takes a few microseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Final

from gateway.simulator.payloads import SHAPES, SIGNAL_STATE, UNKNOWN_MEMBERS, PayloadContext
from gateway.simulator.wire import DIGITS, Clock, Member, Slot, Style, Tree, render, time_in

CALLBACKS: Final = tuple(SHAPES)
"""The names of the 17 callbacks, in the reference's order."""

_SHARES: Final = {
    "OnOrderUpdate": 40,
    "OnLegUpdate": 20,
    "OnPositionUpdate": 16,
    "OnEntrySignal": 10,
    "OnExitSignal": 10,
    "OnAdjustmentSignal": 8,
    "OnAgentStatusChange": 6,
    "OnError": 6,
}
"""How often a kind comes; those not named have one share each."""

_MIX: Final = tuple(index for index, name in enumerate(CALLBACKS) for _ in range(_SHARES.get(name, 1)))
_VARIANTS_BITS: Final = 5
_POOL_BITS: Final = 10
_AWKWARD: Final = ("0.10", "-100.10", "79228162514264337593543950335", "0", "-0.00000001", "1.10", "100.00", "0.0")


@dataclass(frozen=True, slots=True)
class Template:
    """One payload with places left open."""

    callback: int
    """Index into CALLBACKS."""
    strategy: int | None
    active: bool | None
    """Whether a signal is on; None for what is no signal."""
    text: bytes
    """A %-template of the payload; its last three places are EventId, EventSeqId and EventTime."""
    slots: tuple[str, ...]


class EventSource:
    """An endless, seeded run of events for one user."""

    def __init__(self, seed: int, user: str, strategies: tuple[int, ...]) -> None:
        """Different users of one seed have different events."""
        self._seed = seed
        self._dice = Random(f"{seed}/{user}")
        self._strategies = strategies
        self._clock = Clock()
        self._first = list(reversed(range(len(CALLBACKS))))

    def make(
        self, sequence: int, style: Style, moment: int, callbacks: Collection[int] | None = None
    ) -> tuple[Template, bytes]:
        """Make the event `sequence` that occurs at `moment` (ticks): its template and its payload as JSON.

        `callbacks` are indices into CALLBACKS to choose from. Without them the first 17 events are one of
        each kind, so that every run shows them all.
        """
        bits = self._dice.getrandbits
        if callbacks is not None:
            callback = self._dice.choice(tuple(callbacks))
        elif self._first:
            callback = self._first.pop()
        else:
            callback = _MIX[int(self._dice.random() * len(_MIX))]
        template = _templates(self._seed, self._strategies, style)[callback][bits(_VARIANTS_BITS)]
        values: list[bytes | int] = [
            self.uuid() if slot == "uuid" else _POOLS[slot][bits(_POOL_BITS)] for slot in template.slots
        ]
        time = self._clock.write(moment)
        if style.zone != "utc" or style.digits < DIGITS:
            time = time_in(style, time.decode()).encode()
        values += (self.uuid(), sequence, time)
        return template, template.text % tuple(values)

    def uuid(self) -> bytes:
        """Make an EventId."""
        digits = b"%032x" % self._dice.getrandbits(128)
        return b"%b-%b-%b-%b-%b" % (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])


def _pool(name: str) -> tuple[bytes, ...]:
    """Values for a slot; they need no seed of their own, since an event's dice choose among them."""
    dice = Random(name)
    count = range(1 << _POOL_BITS)
    match name:
        case "id":
            values = [str(dice.randrange(1, 9_999_999)) for _ in count]
        case "job":
            values = [f'"job-{dice.getrandbits(32):x}"' for _ in count]
        case _:
            values = [f"{dice.uniform(-2500, 2500):.2f}" for _ in count]
            values[: 8 * len(_AWKWARD)] = _AWKWARD * 8
    return tuple(value.encode() for value in values)


_POOLS: Final = {name: _pool(name) for name in ("id", "job", "money")}


@lru_cache(maxsize=64)
def _templates(seed: int, strategies: tuple[int, ...], style: Style) -> tuple[tuple[Template, ...], ...]:
    """Render the variants of every kind; all users with the same strategies share them."""
    dice = Random(f"{seed}/{strategies}")
    return tuple(
        tuple(
            _template(index, PayloadContext(dice, dice.choice(strategies or (0,))), style)
            for _ in range(1 << _VARIANTS_BITS)
        )
        for index in range(len(CALLBACKS))
    )


def _template(callback: int, scene: PayloadContext, style: Style) -> Template:
    members = SHAPES[CALLBACKS[callback]](scene)
    tail: Mapping[str, Tree] = {"EventId": Slot("uuid"), "EventSeqId": Slot("sequence"), "EventTime": Slot("time")}
    slots: list[str] = []
    unknown = UNKNOWN_MEMBERS if style.unknown_members else {}
    text = render({**members, **unknown, **tail}, style, slots)
    strategy = members.get("StrategyId")
    state = members.get("State")
    return Template(
        callback=callback,
        strategy=strategy if isinstance(strategy, int) else None,
        active=state.name == "On" if isinstance(state, Member) and state in SIGNAL_STATE else None,
        text=text.encode(),
        slots=tuple(slots[:-3]),
    )
