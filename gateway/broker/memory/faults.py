"""Where a simulation lets the broker in memory fail: before and after each effect of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Edge:
    """A moment at which a fault can strike."""

    call: Literal["open", "checkpoints", "commit", "check", "read"]
    when: Literal["before", "after"]
    """Whether the call has had its effect on the broker."""
    owner: str
    shard: int | None
    """None for a read."""
    land: Callable[[], bool]
    """Has the effect now, unless it has been had; gives whether it took, as a fence refuses it silently.

    A fault that keeps `land` for later and raises OutcomeUnknown makes a request that was still under way when
    its sender gave up.
    """


Faults = Callable[[Edge], Awaitable[None]]
"""Consulted before and after each effect: returns for no fault, waits for a delay, raises OutcomeUnknown, or
(only before the effect) Unavailable or CommitRejected."""


async def no_faults(_: Edge) -> None:
    """Let everything succeed, and others run meanwhile."""
    await asyncio.sleep(0)


class Effect:
    """Something that happens to the broker once, now or by a fault's doing."""

    def __init__(self, happen: Callable[[], bool]) -> None:
        self._happen = happen
        self._took: bool | None = None

    def land(self) -> bool:
        """Have the effect, unless it was had; return whether it took."""
        if self._took is None:
            self._took = self._happen()
        return self._took


def no_effect() -> bool:
    """Land a call that only asks."""
    return True
