"""What operators want of an account, written to the store of a world, and whether its owner says that it is so."""

from __future__ import annotations

from gateway.state import Desired, encode_record
from tests.support.in_process import World


async def set_desired(world: World, desired: Desired | bytes, account: str = "alpha") -> int:
    """Write what is desired; return its revision."""
    current = world.control.records.get((False, f"account.{account}"))
    value = desired if isinstance(desired, bytes) else encode_record(desired)
    return int(await world.control.write(f"account.{account}", value, current[0].revision if current else 0))


async def applied(world: World, revision: int, account: str = "alpha") -> None:
    """Wait until the owner reports that it is so."""

    def is_applied() -> bool:
        sighting = world.replicas[-1].view.observed.get(account)
        return sighting is not None and sighting.value.applied == revision

    await world.until(is_applied, f"revision {revision} is applied")
