"""What a replica reports to the others: which shards it owns and what its accounts do, at a bounded rate.

The store keeps the last report of each key. Where a former owner's report arrives late, the owner repeats its own at
the next look: other replicas discard the late one, but a new listener receives nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from msgspec import UNSET
from msgspec.structs import replace

from gateway.broker.control_view import LastWriter
from gateway.broker.ports import ControlStore
from gateway.clock import now_text
from gateway.errors import Unavailable
from gateway.replica.orphaned import KEY_MISSING, ORPHANED
from gateway.replica.source.account import AccountState
from gateway.state import ACCOUNT, Observed, ReplayState, ShardState, encode_record, epoch_of
from gateway.telemetry.logs import get_logger

_POLL_INTERVAL_S: Final = 1.0
"""Seconds between two looks at the observed state."""
_NUMBERS: Final = 5.0
"""Seconds between two reports of an account of which only numbers changed."""
REPEAT_INTERVAL_S: Final = 10.0
"""Seconds between two looks at an account that nothing has touched: only time or another replica changes it."""
_RETRY_DELAY_S: Final = 60.0 - REPEAT_INTERVAL_S
"""Seconds between two reports of an unchanged account: so the age of a report shows whether a replica serves the
account. With the time until the next look these are a minute at most."""
_BATCH_ACCOUNTS: Final = 500
"""Records of one look, and so of one second, that a broker is asked to take of one replica."""
_UNAVAILABLE_INTERVAL_S: Final = 10.0
"""Seconds between two calls that say that the store takes nothing."""
_WITHDRAW_TIMEOUT_S: Final = 1.0
"""Seconds for saying that one is gone."""
_SLICE_ACCOUNTS: Final = 250
"""Accounts that are looked at without a pause: about three milliseconds."""


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class AccountReport:
    """An account whose observed state is reported."""

    account: str
    fingerprint: Hashable
    """Equal as long as nothing has changed: with thousands of idle accounts, to report everything costs too much."""
    record: Callable[[], Observed]
    """Returns the observed state; `since` is filled in later."""
    repeat_after: Callable[[], None] = _nothing
    """Called where something is to be reported and is not yet: it wants another look."""


@dataclass(frozen=True, slots=True)
class StateReport:
    """The observed state of something else."""

    key: str
    """Of the record."""
    record: ShardState | ReplayState
    repeat_after: float
    """Seconds after which it is reported again though nothing changed."""


@dataclass(frozen=True, slots=True)
class _Reported:
    mark: Hashable
    observed: Observed
    record: bytes
    at: float
    revision: int
    """The revision of the last report that was received when this one was sent."""


@dataclass(frozen=True, slots=True)
class _SentState:
    fact: StateReport
    at: float
    revision: int
    """As of an account."""


class Reporter:
    """Reports for one replica."""

    def __init__(
        self,
        store: ControlStore,
        accounts: Callable[[], Iterable[AccountReport | str]],
        facts: Callable[[], Iterable[StateReport]],
        last_writer: Callable[[str], LastWriter],
        failed: Callable[[str, Exception], float],
        *,
        unavailable: Callable[[], None] = _nothing,
    ) -> None:
        """`accounts` and `facts` return the state now; events go on while a caller iterates over `accounts`.

        `accounts` may yield the name alone of an unchanged account of which everything was reported. `last_writer`
        returns the writer of a key's report in the store, as far as this replica has received it. `failed` is called
        for an account whose state cannot be read, and returns the seconds until the next try.
        `unavailable` is called where the store takes nothing: it may have been deleted.
        """
        self._store = store
        self._last_writer = last_writer
        self._accounts = accounts
        self._state_reports = facts
        self._failed = failed
        self._on_unavailable = unavailable
        self._resting: dict[str, float] = {}  # by account: until when, since its state could not be read
        self._reported: dict[str, _Reported] = {}
        self._since: dict[str, tuple[str, str]] = {}  # by account: its state, and since when
        self._sent: dict[str, _SentState] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Report until `stop`."""
        log = get_logger()
        clock, last_error, notified_at = asyncio.get_running_loop().time, "", float("-inf")
        while not stop.is_set():
            try:
                await self._report()
                last_error = ""
            except Unavailable as error:
                if str(error) != last_error:
                    log.warning("failed to report observed state", error=str(error))
                last_error = str(error)
                if clock() - notified_at >= _UNAVAILABLE_INTERVAL_S:
                    notified_at = clock()
                    self._on_unavailable()
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_INTERVAL_S):
                    await stop.wait()

    async def withdraw(self) -> None:
        """Report that no replica serves what was reported last, unless a later owner has reported; never raises."""
        records: dict[str, bytes] = {}
        for name, last in self._reported.items():
            key = ACCOUNT + name
            last_writer = self._last_writer(key)
            is_ours = last_writer.epoch <= epoch_of(last.observed)
            if last_writer.revision and is_ours:  # else it is forgotten, or another's
                records[key] = encode_record(self._with_time(name, _withdrawn(last.observed)))
        if records:
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(_WITHDRAW_TIMEOUT_S):
                    await self._store.publish_observed(records)

    async def _report(self) -> None:
        now = asyncio.get_running_loop().time()
        waiting: dict[str, Callable[[], None]] = {}
        try:
            due = await self._changes(now, waiting)
            records = {ACCOUNT + name: report.record for name, report in due.items()}
            facts = {fact.key: fact for fact in self._state_reports()}
            self._sent = {key: sent for key, sent in self._sent.items() if key in facts}
            fresh = [fact for fact in facts.values() if self._is_due(fact, now)][:_BATCH_ACCOUNTS]
            records |= {fact.key: encode_record(fact.record) for fact in fresh}
            sent = {fact.key: _SentState(fact, now, self._last_writer(fact.key).revision) for fact in fresh}
            if records:
                await self._store.publish_observed(records)
            self._sent |= sent
            self._reported |= due
            for name in due:
                del waiting[name]
        finally:
            for again in waiting.values():
                again()

    async def _changes(self, now: float, waiting: dict[str, Callable[[], None]]) -> dict[str, _Reported]:
        """Return what is to be reported of accounts now; `waiting` has all accounts that wait, these too."""
        present: set[str] = set()
        due: list[tuple[tuple[int, float], str, _Reported]] = []
        strangers = 0  # these were never reported: no other goes before them
        for at, subject in enumerate(self._accounts(), 1):
            if at % _SLICE_ACCOUNTS == 0:
                await asyncio.sleep(0)  # events go first
            if isinstance(subject, str):
                present.add(subject)
                continue
            name = subject.account
            present.add(name)
            waiting[name] = subject.repeat_after
            last_writer = self._last_writer(ACCOUNT + name)
            last = self._last_report(name, last_writer)
            if strangers >= _BATCH_ACCOUNTS:
                continue  # it waits: nothing more goes into this report, and to report thousands costs much
            strangers += last is None
            if (report := self._pending(subject, last, now, last_writer.revision)) is not None:
                urgency = _urgency(last, report)
                if urgency is not None:
                    due.append((urgency, name, report))
                if urgency is not None or (last is not None and last.observed != report.observed):
                    continue
            del waiting[name]
        for name in self._reported.keys() - present:
            del self._reported[name]  # another replica reports it now
            self._since.pop(name, None)
        self._resting = {name: until for name, until in self._resting.items() if name in present and until > now}
        return {name: report for _, name, report in sorted(due, key=lambda one: one[0])[:_BATCH_ACCOUNTS]}

    def _last_report(self, name: str, last_writer: LastWriter) -> _Reported | None:
        """Return the last report of an account; None where another replica's report has replaced it."""
        last = self._reported.get(name)
        return None if last is None or _is_overwritten(last.revision, epoch_of(last.observed), last_writer) else last

    def _pending(self, subject: AccountReport, last: _Reported | None, now: float, revision: int) -> _Reported | None:
        """Return the observed state of an account; None where nothing of it changed, or where it cannot be read now."""
        name = subject.account
        is_old = last is not None and last.mark == subject.fingerprint and now - last.at < _RETRY_DELAY_S
        if is_old or self._resting.get(name, now) > now:
            return None
        try:
            observed = self._with_time(name, subject.record())
            return _Reported(subject.fingerprint, observed, encode_record(observed), now, revision)
        except Exception as error:  # noqa: BLE001 - the others are told of
            self._resting[name] = now + self._failed(name, error)
            return None

    def _is_due(self, fact: StateReport, now: float) -> bool:
        sent = self._sent.get(fact.key)
        if sent is None or sent.fact.record != fact.record or now - sent.at >= fact.repeat_after:
            return True
        return _is_overwritten(sent.revision, epoch_of(fact.record), self._last_writer(fact.key))

    def _with_time(self, name: str, observed: Observed) -> Observed:
        state, since = self._since.get(name, ("", ""))
        if state != observed.state:
            since = now_text()
            self._since[name] = observed.state, since
        return replace(observed, since=since)


def _is_overwritten(revision: int, epoch: int, last_writer: LastWriter) -> bool:
    """Return whether a former owner overwrote what was reported under `epoch`, when `revision` was the last word."""
    return last_writer.revision != revision and last_writer.epoch < epoch


def _withdrawn(observed: Observed) -> Observed:
    """Return the observed state of an account once the replica that reported it is gone."""
    if observed.state in {KEY_MISSING, ORPHANED}:
        return replace(observed, state=KEY_MISSING)
    return replace(observed, state=AccountState.OFFLINE.value, last_error="the gateway that served it has ended")


def _without_counters(observed: Observed) -> Observed:
    return replace(observed, settled=UNSET, latest=UNSET, published=0, lag_seconds=UNSET)


def _urgency(last: _Reported | None, report: _Reported) -> tuple[int, float] | None:
    """Return how soon to report `news`: changes of a state before numbers, the oldest first; None for not yet."""
    if last is None or _without_counters(last.observed) != _without_counters(report.observed):
        return 0, float("-inf") if last is None else last.at
    if report.at - last.at >= (_NUMBERS if last.observed != report.observed else _RETRY_DELAY_S):
        return 1, last.at
    return None
