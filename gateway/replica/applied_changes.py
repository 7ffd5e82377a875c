"""Logs who changed the desired state that an owner applies: a writer to the broker can change it without the API.

A record without an author, or with the same request as the one before, was not written through the API.
"""

from __future__ import annotations

from typing import Final

from msgspec import UNSET, UnsetType

from gateway.broker.control_view import VersionedDesired
from gateway.state import Replay, Written
from gateway.telemetry.counters import Counters
from gateway.telemetry.logs import get_logger

UNKNOWN_WRITER: Final = "unknown writer"


def log_applied_change(counters: Counters, account: str, before: VersionedDesired, now: VersionedDesired) -> None:
    """Log and count who changed the desired state of `account`; do nothing where it did not change."""
    if now.revision != before.revision and now.desired is not None:
        written_before = UNSET if before.desired is None else before.desired.written
        _log(counters, "a change of what is wanted", written_before, now.desired.written, account=account)


def log_applied_replay_change(counters: Counters, id_: str, before: Replay | None, now: Replay) -> None:
    """Log and count who requested or cancelled a replay; do nothing where the record did not change."""
    if now != before:
        what = "the end of a replay" if now.cancel_requested else "a replay"
        _log(counters, what, UNSET if before is None else before.written, now.written, account=now.account, replay=id_)


def _log(counters: Counters, what: str, before: Written | UnsetType, now: Written | UnsetType, **about: str) -> None:
    log = get_logger(**about)
    if now is UNSET or now == before:
        counters.unknown_writers += 1
        log.warning("applied a change that did not come through the API", what=what, by=UNKNOWN_WRITER)
    else:
        log.info("applied a change", what=what, by=now.by, at=now.at, request_id=now.request_id)
