"""How long to wait before trying again: full jitter, capped, reset after a stable while."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Delays that are drawn evenly from zero to what was waited so far, and a little more.

    Full jitter spreads thousands of clients best (AWS Architecture Blog, "Exponential Backoff And Jitter"). A top that
    doubles with each failure would, after a few short draws, make a client wait 9 s for a hub that was away for 2.4
    (measured); with this one no client waits longer than for as long again.
    """

    first: float = 0.25
    """Maximum seconds of the first delay."""
    cap: float = 30.0
    """Maximum seconds of any delay."""
    stable_after: float = 10.0
    """Seconds of success after which the next failure counts as the first."""
    _waited: float = field(default=0.0, init=False)

    def next_delay(self, *, lasted: float = 0.0, at_least: float | None = None) -> float:
        """Return the seconds to wait after a failure of something that had `lasted`.

        `at_least` is what the other side requested: the jitter comes on top of it.
        """
        if lasted >= self.stable_after:
            self._waited = 0.0
        delay = random.uniform(0.0, min(self.cap, self.first + self._waited))  # noqa: S311 - jitter, not a secret
        self._waited += delay
        return (at_least or 0.0) + delay
