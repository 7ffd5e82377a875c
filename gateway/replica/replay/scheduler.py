"""The replays of one shard's accounts: started, cancelled and erased as operators request, and added to its commits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial

from gateway.replica.applied_changes import log_applied_replay_change
from gateway.replica.containment import RestartDelays, raise_if_cancelled, report_unexpected
from gateway.replica.replay.job import ReplayJob, ReplaySettings
from gateway.replica.source.account import Account
from gateway.session.replay_queue import KEY, Progress
from gateway.session.types import OutgoingItem
from gateway.state import RecordUnreadable, Replay, ReplayState, decode_record
from gateway.telemetry.counters import Counters
from gateway.telemetry.logs import get_logger


class ReplayScheduler:
    """The replays of a shard; they run while its log is open."""

    def __init__(
        self,
        settings: ReplaySettings,
        accounts: Mapping[str, Account],
        has_work: Callable[[], None],
        counters: Counters,
    ) -> None:
        """`accounts` are the shard's, as they come and go; `has_work` is called when `take` may have something."""
        self._settings = settings
        self._accounts = accounts
        self._has_work = has_work
        self._counters = counters
        self._desired: dict[str, Replay] = {}
        self._progress: dict[str, bytes] = {}  # as committed
        self._jobs: dict[str, ReplayJob] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._ready: set[str] = set()  # may have something to commit
        self._taken: dict[str, bytes | None] = {}  # progress in the commit that is under way
        self._forgotten: set[str] = set()
        self._withdrawn: set[str] = set()  # of these, those whose progress is to be erased
        self._held: dict[str, str] = {}  # why a message of theirs does not get through
        self._restart_delays = RestartDelays()
        self._tasks: asyncio.TaskGroup | None = None

    def set_desired(self, id_: str, replay: Replay | None) -> None:
        """Follow what operators want of a replay; None where it is forgotten."""
        if replay is None:
            self._desired.pop(id_, None)
            self._held.pop(id_, None)
            self._restart_delays.forget(id_)
            self._drop(id_)
            self._forgotten.add(id_)
            if id_ in self._progress:
                self._withdrawn.add(id_)
                self._is_ready(id_)
            return
        if self._tasks is not None:
            log_applied_replay_change(self._counters, id_, self._desired.get(id_), replay)
        self._desired[id_] = replay
        if id_ not in self._withdrawn:
            self._forgotten.discard(id_)  # the same key asks for it again
        job = self._jobs.get(id_)
        if job is None:
            self._begin(id_)
        elif replay.cancel_requested and not job.is_over and self._tasks is not None:
            self._running[id_].cancel()
            self._running[id_] = self._tasks.create_task(self._run(id_, job.cancel), name=f"replay-{id_}")

    def on_opened(self, checkpoints: Mapping[str, bytes], tasks: asyncio.TaskGroup) -> None:
        """Go on from what is committed."""
        self.on_closed()
        self._tasks = tasks
        self._progress = {key.removeprefix(KEY): value for key, value in checkpoints.items() if key.startswith(KEY)}
        self._forgotten &= self._progress.keys()
        self._withdrawn = set(self._forgotten)
        self._ready = set(self._withdrawn)
        for id_ in self._desired:
            self._begin(id_)

    def on_closed(self) -> None:
        """There is no log any more."""
        self._tasks = None
        for id_ in list(self._jobs):
            self._drop(id_)
        self._taken.clear()

    def on_account_added(self, account: str) -> None:
        """The account is served now."""
        for id_, replay in self._desired.items():
            if replay.account == account:
                self._begin(id_)

    def on_account_removed(self, account: str) -> None:
        """The account is served no more: its replays wait until it is."""
        for id_, job in list(self._jobs.items()):
            if job.account.name == account:
                self._drop(id_)

    def _begin(self, id_: str) -> None:
        replay = self._desired[id_]
        account = self._accounts.get(replay.account)
        if self._tasks is None or account is None or id_ in self._jobs:
            return
        if id_ in self._taken or id_ in self._withdrawn:
            return  # it is begun once that is committed
        try:
            progress = self._known(id_)
        except RecordUnreadable as error:
            get_logger(account=replay.account).error("replay halted", replay=id_, error=str(error))
            return
        job = ReplayJob(id_, replay, progress, account, self._settings, partial(self._is_ready, id_))
        self._jobs[id_] = job
        job.held_up_by = self._held.get(id_)
        self._running[id_] = self._tasks.create_task(self._run(id_, job.run), name=f"replay-{id_}")

    async def _run(self, id_: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do what there is to do for a replay; where that fails unexpectedly, it goes on from what is committed."""
        try:
            await work()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the others go on
            raise_if_cancelled()
            delay = self._wait_to_restart(id_, error)
        else:
            return
        await self._restart(id_, delay)

    async def _restart(self, id_: str, delay: float) -> None:
        await asyncio.sleep(delay)
        self._jobs.pop(id_, None)
        self._running.pop(id_, None)
        if id_ in self._desired:
            self._begin(id_)

    def _wait_to_restart(self, id_: str, error: BaseException) -> float:
        delay = self._restart_delays.after_failure(id_)
        job = self._jobs.get(id_)
        if job is not None:
            job.waits_for = f"an unexpected error, see the log: {error!r}; it is tried again"
        report_unexpected(self._counters, "replay", error, retry_in=delay, replay=id_)
        return delay

    def fail(self, id_: str, error: Exception) -> None:
        """What a replay has for a commit cannot be taken: let it go on from what is committed, after a while."""
        self._taken.pop(id_, None)
        running = self._running.pop(id_, None)
        if running is not None and self._tasks is not None:
            running.cancel()
            again = self._restart(id_, self._wait_to_restart(id_, error))
            self._running[id_] = self._tasks.create_task(again, name=f"replay-{id_}")

    def hold(self, id_: str, problem: str) -> None:
        """Note why a message of a replay did not get through: it is tried again after a while."""
        self._held[id_] = f"{problem}; it is tried again, after a while and by itself"

    def is_to_end(self, id_: str) -> bool:
        """Return whether an operator wants it to end, or to be forgotten: then it has no message any more."""
        replay = self._desired.get(id_)
        return replay is None or replay.cancel_requested

    def _is_ready(self, id_: str) -> None:
        self._ready.add(id_)
        self._has_work()

    def _known(self, id_: str) -> Progress | None:
        value = self._progress.get(id_)
        return None if value is None else decode_record(Progress, value)

    def _drop(self, id_: str) -> None:
        self._jobs.pop(id_, None)
        running = self._running.pop(id_, None)
        if running is not None:
            running.cancel()

    # For the shard's commits ------------------------------------------------------------------------------

    def take(
        self, id_: str, most: int, space: int, measure: Callable[[OutgoingItem], int] | None = None
    ) -> tuple[list[OutgoingItem], bytes | None] | None:
        """Return messages of a replay and the progress to commit with them; None for nothing now."""
        self._ready.discard(id_)
        found: tuple[list[OutgoingItem], bytes | None] | None = None
        if id_ in self._withdrawn:
            self._withdrawn.discard(id_)
            found = [], None
        elif (job := self._jobs.get(id_)) is not None:
            found = job.take(most, space, measure)
        if found is not None:
            self._taken[id_] = found[1]
        return found

    def ids(self) -> list[str]:
        """Return those that may have something to commit."""
        return list(self._ready)

    def on_committed(self, ids: Iterable[str]) -> None:
        """What was taken of these is committed."""
        for id_ in ids:
            progress = self._taken.pop(id_, None)
            if progress is None:
                self._progress.pop(id_, None)
                self._forgotten.discard(id_)
            else:
                self._progress[id_] = progress
            job = self._jobs.get(id_)
            self._held.pop(id_, None)
            if job is not None:
                job.on_committed()
                if job.is_over:
                    self._counters.replays[job.state().phase.value] += 1
            elif id_ in self._desired:
                self._begin(id_)  # its account came back meanwhile

    def states(self) -> Iterator[tuple[str, Callable[[], ReplayState]]]:
        """Yield each replay that runs here, with the function that reports its progress."""
        for id_, job in self._jobs.items():
            yield id_, job.state
