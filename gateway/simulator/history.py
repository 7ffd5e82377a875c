"""The events that a user of the simulated hub emitted, and how a page shows them."""

from __future__ import annotations

import base64
import json
import math
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Final

from gateway.simulator.envelopes import Members, Wrapping
from gateway.simulator.events import CALLBACKS
from gateway.simulator.faults import Faults

UNKNOWN: Final = "OnMarginCall"
"""A callback that the reference does not have."""

NAMES: Final = (*CALLBACKS, UNKNOWN)


@dataclass(frozen=True, slots=True)
class Injection:
    """Raw bytes for the hub to send."""

    raw: bytes
    """In it `$SEQUENCE`, `$ID` and `$TIME` stand for a number, a new EventId and the present."""
    callback: str = "OnOrderUpdate"
    is_record: bool = False
    """Whether `raw` is a whole record, without its end, instead of a callback's argument."""
    push: bool = True
    """Whether it is pushed to every subscriber; the faults of pushes do not touch it."""
    history: str = "no"
    """`no`; as the `payload` of an envelope; or as the whole `envelope`."""
    sequence: int | None = None
    """Its number in the hub's order; None: the next."""
    numbered: bool = True
    """Whether it has a number; without one it stands behind the latest event, and no EventSeqId goes around it."""


@dataclass(frozen=True, slots=True)
class Injected:
    """What an entry of the history is that was injected."""

    injection: Injection
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
        self._injected: dict[int, Injected] = {}

    def __len__(self) -> int:
        return len(self.payloads)

    def append(self, sequence: int, callback: int, payload: bytes, now: float) -> None:
        """Add the latest event, emitted at the monotonic time `now`."""
        self.sequences.append(sequence)
        self.callbacks.append(callback)
        self.payloads.append(payload)
        self._emitted_at.append(now)

    def inject(self, sequence: int, injected: Injected, now: float) -> None:
        """Add what was injected, at its place by its number."""
        at = self.after(sequence)
        self._emitted_at.insert(at, now if at == len(self) else self._emitted_at[at])
        self.sequences.insert(at, sequence)
        self.callbacks.insert(at, 0)
        self.payloads.insert(at, injected.raw)
        self._stragglers = {index + (index >= at): until for index, until in self._stragglers.items()}
        self._injected = {index + (index >= at): other for index, other in self._injected.items()}
        self._injected[at] = injected
        if injected.injection.history == "no":
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
            return wrapping.entry(NAMES[self.callbacks[index]], self.payloads[index], self.sequences[index])
        if injected.injection.history == "envelope":
            return injected.raw
        return wrapping.around(injected.injection.callback, injected.raw, injected.header)

    def line(self, index: int) -> bytes:
        """Return an event as a line of JSON: sequence, callback and payload, the payload as it is on the wire.

        What was injected has `raw`, in base64, in the payload's place, and how it was shown.
        """
        injected = self._injected.get(index)
        if injected is None:
            parts = (self.sequences[index], NAMES[self.callbacks[index]].encode(), self.payloads[index])
            return b'{"sequence":%d,"callback":"%b","payload":%b}\n' % parts
        injection = injected.injection
        line = {
            "sequence": self.sequences[index] if injection.numbered else None,
            "callback": injection.callback,
            "raw": base64.b64encode(injected.raw).decode(),
            "pushed": injection.push,
            "history": injection.history,
        }
        return json.dumps(line, separators=(",", ":")).encode() + b"\n"

    def _shown(self, lag: float, now: float) -> int:
        return bisect_right(self._emitted_at, now - lag) if lag else len(self)
