"""How long to wait before trying again: full jitter, capped, reset after a stable while."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Delays that double at the top and are drawn evenly from zero to there.

    Full jitter spreads thousands of clients best (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """

    first: float = 0.25
    """Seconds that the first delay may take at the most."""
    cap: float = 30.0
    """Seconds that any delay may take at the most."""
    stable_after: float = 30.0
    """Seconds of success after which the next failure counts as the first."""
    _failures: int = field(default=0, init=False)

    def next_delay(self, *, lasted: float = 0.0, at_least: float | None = None) -> float:
        """Give the seconds to wait after a failure of something that had `lasted`.

        `at_least` is what the other side asked for: the jitter comes on top of it.
        """
        if lasted >= self.stable_after:
            self._failures = 0
        top = min(self.cap, self.first * 2 ** min(self._failures, 32))
        self._failures += 1
        return (at_least or 0.0) + random.uniform(0.0, top)  # noqa: S311 - jitter, not a secret
