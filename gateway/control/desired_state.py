"""Changes of the desired state: read, changed and written back if no other process has written meanwhile.

Any replica can change it for every account. It reads its view, which may be a moment old. The control store's
compare-and-set detects that, and then the change is repeated on the newer state. So no answer ever comes from the view
alone: also a desired state that seems to hold already is written.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.broker.control_view import VersionedDesired, View
from gateway.broker.ports import ControlStore
from gateway.control.account_list import is_applied
from gateway.control.auditing import Action, Intent, of_desired
from gateway.control.auth.callers import RequestCaller
from gateway.control.deployment_view import DeploymentView
from gateway.control.etags import Condition
from gateway.control.problems import Problem, ProblemType
from gateway.errors import BrokerError, Conflict, OutcomeUnknown, Unavailable
from gateway.state import ACCOUNT, MAX_IDEMPOTENCY_RECORDS, Desired, IdempotencyRecord, encode_record
from gateway.telemetry.logs import get_logger

APPLY_TIMEOUT_S: Final = 3.0
"""Seconds that an answer waits for the owner."""
READ_TIMEOUT_S: Final = 3.0
"""Seconds until a written record must be received: watches take half a second."""
WRITE_TIMEOUT_S: Final = 8.0
"""Seconds for which a change is made again and again beside others."""
_POLL_INTERVAL_S: Final = 0.02
"""Seconds between two looks at the view."""
_RETRY_AFTER_S: Final = 5
UNKNOWN: Final = 2
"""Seconds after which to ask again."""

Change = Callable[[Desired], Desired]


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """A request that must be carried out once, however often it is sent."""

    key: str
    """A digest of the caller and the given key."""
    request_digest: str

    @classmethod
    def of(cls, who: str, key: str, what: str) -> IdempotentRequest:
        """Make it from the header Idempotency-Key."""
        return cls(digest_of_key(who, key), what)

    def answered(self, desired: Desired) -> IdempotencyRecord | None:
        """Return how it was answered, if it was; raises Problem where the key was used for something else."""
        found = next((one for one in _answered(desired) if one.key == self.key), None)
        if found is not None and found.request != self.request_digest:
            raise Problem(
                ProblemType.KEY_REUSED,
                f"This Idempotency-Key was used for {found.request}, and this request is "
                f"{self.request_digest}: give each its own.",
            )
        return found

    def remember(self, desired: Desired, result: int) -> Desired:
        """Note that it is answered by `result`."""
        records = (*_answered(desired), IdempotencyRecord(self.key, self.request_digest, result))
        return replace(desired, idempotency=records[-MAX_IDEMPOTENCY_RECORDS:])


def digest_of_key(who: str, key: str) -> str:
    """Return the digest that stands for a caller's Idempotency-Key: 32 hexadecimal digits."""
    return hashlib.blake2b(f"{who}\0{key}".encode(), digest_size=16).hexdigest()


def _answered(desired: Desired) -> tuple[IdempotencyRecord, ...]:
    return () if desired.idempotency is msgspec.UNSET else desired.idempotency


class DesiredStateWriter:
    """Changes the desired state of any account."""

    def __init__(self, deployment: DeploymentView) -> None:
        self._deployment = deployment

    async def change(
        self, account: str, change: Change, caller: RequestCaller, action: Action, condition: Condition | None = None
    ) -> VersionedDesired:
        """Apply `change` to the desired state of `account`, and return the new one; raises Problem.

        The record names `caller` as its author, and so does the audit topic. `change` may be called several times, each
        time with the desired state by then; what it raises is raised.
        """
        view, store = self._deployment.view_of(account), self._deployment.writable_store()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WRITE_TIMEOUT_S
        while True:
            if condition is not None:
                await wait_until(
                    lambda: not condition.expects_later_than(view.desired_of(account).revision), READ_TIMEOUT_S / 2
                )
                condition.check(account, view.desired_of(account).revision)
            current = view.desired_of(account)
            if current.desired is None:
                raise Problem(
                    ProblemType.WRITTEN_BY_NEWER_VERSION,
                    f"A newer release wrote the desired state of account {account}. Ask a replica of that release.",
                )
            wanted = replace(change(current.desired), written=caller.written())
            intent = of_desired(caller, action, account, current.desired, wanted)
            written = await self._write(view, store, intent, VersionedDesired(wanted, current.revision))
            if written is not None:
                return written
            if loop.time() > deadline:
                raise Problem(
                    ProblemType.TOO_MANY_CONCURRENT_UPDATES,
                    f"Other callers keep changing the desired state of account {account}. Read it, then retry.",
                    retry_after=UNKNOWN,
                )

    async def _write(
        self, view: View, store: ControlStore, intent: Intent, desired: VersionedDesired
    ) -> VersionedDesired | None:
        """Write `desired` over its revision, and return it with its own; None where another process has written."""
        assert desired.desired is not None  # noqa: S101 - the caller made it
        account, auditing = intent.account, self._deployment.auditing

        def has_changed() -> bool:
            return view.desired_of(account).revision != desired.revision

        try:
            revision = await store.write(ACCOUNT + account, encode_record(desired.desired), desired.revision)
        except Conflict:
            if not await wait_until(has_changed, READ_TIMEOUT_S):
                raise broker_unavailable("it changed elsewhere, and this replica does not hear how") from None
            return None
        except Unavailable as error:
            raise broker_unavailable(str(error)) from error
        except OutcomeUnknown as error:
            get_logger(account=account).warning("outcome of a desired-state write unknown", error=str(error))
            is_known = await self._outcome(intent, desired, has_changed)
            if not is_known:
                raise Problem(
                    ProblemType.OUTCOME_UNKNOWN,
                    f"The broker did not say whether the desired state of account {account} is written. Read it, or "
                    "retry: the same request twice does no harm, if it is a PUT, a DELETE or has an "
                    "Idempotency-Key.",
                    retry_after=UNKNOWN,
                ) from error
            found = view.desired_of(account)
            return found if found.desired == desired.desired else None
        except BrokerError as error:
            raise broker_unavailable(str(error)) from error
        except BaseException:  # the caller left, or an unexpected error came: it may be written
            auditing.put(intent.record("unknown"))
            raise
        auditing.put(intent.record("made", revision))
        await auditing.settle()
        await wait_until(
            lambda: view.desired_of(account).revision >= revision, READ_TIMEOUT_S
        )  # what is read next shows it
        return VersionedDesired(desired.desired, revision)

    async def _outcome(self, intent: Intent, desired: VersionedDesired, has_changed: Callable[[], bool]) -> bool:
        """Wait until the outcome of a write with a lost answer is received; return whether it is. It is audited."""
        view, auditing, found = self._deployment.view_of(intent.account), self._deployment.auditing, False
        try:
            found = await wait_until(has_changed, READ_TIMEOUT_S)
        finally:  # also where the caller has left
            now = view.desired_of(intent.account)
            is_made = found and now.desired == desired.desired
            auditing.put(intent.record("made", now.revision) if is_made else intent.record("unknown"))
        return found

    async def until_applied(self, account: str, revision: int) -> bool:
        """Wait a short while until the owner reports that the desired state is applied; return whether it does."""
        view = self._deployment.view_of(account)

        def is_so() -> bool:
            sighting = view.observed.get(account)
            return sighting is not None and sighting.value is not None and sighting.value.applied >= revision

        return await wait_until(is_so, APPLY_TIMEOUT_S)

    def is_applied(self, account: str) -> bool:
        """Return whether the whole desired state is applied, as far as is known."""
        return is_applied(self._deployment.view_of(account), account)


async def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until `condition` holds; return False when it does not within `seconds`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(_POLL_INTERVAL_S)
    return True


def broker_unavailable(why: str) -> Problem:
    """Return the problem of a change that was not made."""
    return Problem(
        ProblemType.BROKER_UNAVAILABLE,
        f"Nothing was changed: {why}. Ask again; what is read meanwhile is as old as it says.",
        retry_after=_RETRY_AFTER_S,
    )
