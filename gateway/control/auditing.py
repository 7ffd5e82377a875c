"""Writes the changes made through the API to the audit topic, from which their authors can remove nothing.

The change comes first, by compare-and-set; its record follows at once, in the order of the changes. Where the broker
does not take the record, the failure is an ERROR and counted, and the write is tried again until it succeeds: the
caller waits a moment for it, and no longer. Where many records wait, no further change is made. A record that is lost
with a process killed between the two stands in the changed record itself, in the log of the replica that served the
request, and in that of the owner.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import uuid4

import msgspec

from gateway.broker.ports import AuditTrail
from gateway.clock import now_text
from gateway.control.auth.callers import RequestCaller
from gateway.control.problems import Problem, ProblemType
from gateway.errors import BrokerError, Unavailable
from gateway.state import Desired, Replay
from gateway.telemetry.control_counts import ControlCounters
from gateway.telemetry.logs import get_logger

VERSION: Final = 1
_MAX_WAITING: Final = 1000
"""Records that wait, above which nothing is changed any more."""
_WRITE_TIMEOUT_S: Final = 2.0
"""Seconds that a caller waits until the record of their change is stored."""
_FIRST_DELAY_S: Final = 0.1
_MAX_DELAY_S: Final = 5.0
"""Seconds before a record is tried again; doubled each time."""
_RETRY_AFTER: Final = 5

Action = Literal["subscription", "target-state", "reconnect", "checkpoint", "forget", "replay", "replay-cancel"]
Outcome = Literal["made", "unknown"]


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One change, as the audit topic has it."""

    id: str
    """The same record may be stored twice where the broker's answer was lost: readers know it by this."""
    time: str
    """RFC 3339, by the clock of the replica that was asked."""
    action: Action
    account: str
    replay: str | None = None
    by: str
    """The name of the token; `local` without tokens."""
    role: str
    request_id: str
    client_request_id: str | None = None
    address: str | None = None
    outcome: Outcome
    """Whether it was made, or whether the broker did not confirm it."""
    revision: int | None = None
    """Of the record that was written, where it is known."""
    before: Any = None
    """What changed, as it was."""
    after: Any = None
    """What changed, as it is."""
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Intent:
    """What a caller is about to change."""

    caller: RequestCaller
    action: Action
    account: str
    replay: str | None = None
    before: Any = None
    after: Any = None

    def record(self, outcome: Outcome, revision: int | None = None) -> AuditRecord:
        """Return the record of it for the audit topic."""
        return AuditRecord(
            id=uuid4().hex,
            time=now_text(),
            action=self.action,
            account=self.account,
            replay=self.replay,
            by=self.caller.who.name,
            role=self.caller.who.role.value,
            request_id=self.caller.request_id,
            client_request_id=self.caller.client_request_id,
            address=self.caller.address,
            outcome=outcome,
            revision=revision,
            before=self.before,
            after=self.after,
        )


def of_desired(caller: RequestCaller, action: Action, account: str, before: Desired, after: Desired) -> Intent:
    """Return the intent of a change of the desired state of an account, with the members that differ."""
    old, new = _plain(before), _plain(after)
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return Intent(
        caller,
        action,
        account,
        before={name: old.get(name) for name in names},
        after={name: new.get(name) for name in names},
    )


def of_replay(caller: RequestCaller, action: Action, id_: str, replay: Replay) -> Intent:
    """Return the intent of a requested or cancelled replay."""
    if action == "replay-cancel":
        return Intent(caller, action, replay.account, id_, {"cancel_requested": False}, {"cancel_requested": True})
    return Intent(caller, action, replay.account, id_, None, _plain(replay))


_BOOKKEEPING: Final = frozenset({"version", "idempotency", "written", "request", "requested_at", "requested_by"})


def _plain(record: Desired | Replay) -> Mapping[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(record)
    return {name: value for name, value in found.items() if name not in _BOOKKEEPING}


class Auditing:
    """The records that are on their way to the audit topic."""

    def __init__(self, counts: ControlCounters | None = None, trail: AuditTrail | None = None) -> None:
        """`trail` is None until the broker is available for the first time."""
        self.trail = trail
        self._counts = ControlCounters() if counts is None else counts
        self._waiting: deque[AuditRecord] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._log = get_logger()

    def check_room(self) -> None:
        """Raise Problem where so many records wait that no further change is to be made."""
        if len(self._waiting) >= _MAX_WAITING:
            raise Problem(
                ProblemType.BROKER_UNAVAILABLE,
                f"Nothing was changed: {len(self._waiting)} changes are not on the audit topic yet. Ask again.",
                retry_after=_RETRY_AFTER,
            )

    def put(self, record: AuditRecord) -> None:
        """Let `record` be written, from now on until it is; never waits and never fails."""
        self._waiting.append(record)
        self._counts.audit_waiting = len(self._waiting)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all(), name="audit")

    async def settle(self, seconds: float | None = None) -> bool:
        """Wait until everything that was put is written, for as long as a caller waits; return whether it is."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_WRITE_TIMEOUT_S if seconds is None else seconds)
        return not self._waiting

    async def end(self, seconds: float) -> None:
        """Write what waits, and log at ERROR what cannot be written: this process ends."""
        if not await self.settle(seconds):
            for record in self._waiting:
                self._log.error("audit record lost", record=msgspec.to_builtins(record))
        if self._writing is not None:
            self._writing.cancel()

    async def _write_all(self) -> None:
        delay = _FIRST_DELAY_S
        while self._waiting:
            record = self._waiting[0]
            try:
                if self.trail is None:
                    raise Unavailable("broker unavailable, retrying")  # noqa: TRY301 - as when it is away
                await self.trail.append(record.id, record.account, msgspec.json.encode(record))
            except Exception as error:  # noqa: BLE001 - whatever it was, the record must be written
                self._counts.audit_failures += 1
                self._log.error(
                    "audit record not stored yet, retrying",
                    account=record.account,
                    request_id=record.request_id,
                    error=str(error) if isinstance(error, BrokerError) else repr(error),
                    retry_in=delay,
                )
                await asyncio.sleep(delay)
                delay = min(2 * delay, _MAX_DELAY_S)
            else:
                self._waiting.popleft()
                self._counts.audit_waiting = len(self._waiting)
                delay = _FIRST_DELAY_S
