"""A replay whose account was reset since it was requested: its sequences are those of a history that has ended."""

from __future__ import annotations

from msgspec import UNSET

from gateway.session.session import Session
from gateway.state import Replay


def reset_since(replay: Replay, session: Session | None) -> str | None:
    """Return why a replay cannot go on, where the account's checkpoint was reset since it was requested.

    The API refuses a reset while a replay is open, and a replay while a reset is. Two replicas that are asked at the
    same moment do not see one another's requests yet.
    """
    wanted = replay.incarnation
    if session is None or wanted is UNSET or session.incarnation == wanted:
        return None
    return (
        f"the account was reset since this was requested (incarnation {session.incarnation}, not {wanted}): "
        "its sequences may be those of other events. Ask for the range again"
    )
