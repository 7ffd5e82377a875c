"""Replays as operators request them: checked, written once however often they are sent, cancelled, erased."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import datetime
from typing import Final
from uuid import uuid4

from msgspec import UNSET
from msgspec.structs import replace

from gateway.broker.control_view import Versioned, View
from gateway.broker.ports import ControlStore
from gateway.control import models
from gateway.control.account_list import check_no_reset, checkpoint_position_of
from gateway.control.auditing import Intent, of_replay
from gateway.control.auth.callers import RequestCaller
from gateway.control.auth.principals import AccountScope
from gateway.control.deployment_view import DeploymentView
from gateway.control.desired_state import (
    APPLY_TIMEOUT_S,
    READ_TIMEOUT_S,
    UNKNOWN,
    broker_unavailable,
    digest_of_key,
    wait_until,
)
from gateway.control.problems import FieldError, Problem, ProblemType, nearest, unknown
from gateway.errors import BrokerError, Conflict, OutcomeUnknown
from gateway.events.catalogue import CATALOGUE
from gateway.events.times import canonical_time, ticks
from gateway.publication import DEAD_LETTER
from gateway.state import REPLAY, Destination, Phase, Replay, ReplayState, encode_record
from gateway.telemetry.logs import get_logger

_KINDS: Final = (*CATALOGUE, DEAD_LETTER)
_TOO_MANY: Final = 30
"""Seconds after which a replay may have ended."""


def read_range(view: View, account: str, wanted: models.ReplayWanted, caller: RequestCaller) -> Replay:
    """Return the record of the requested range; raises Problem, with a clear error, for an invalid one."""
    sighting = view.observed.get(account)
    observed = None if sighting is None else sighting.value
    last = 0 if observed is None or observed.settled is UNSET else observed.settled
    until_ = last if wanted.until is None else wanted.until
    latest = last if observed is None or observed.latest is UNSET else max(observed.latest, last)
    if wanted.until is not None and observed is not None and wanted.until > latest:
        what = "the last event that is known" if observed.latest is UNSET else "the hub's latest event"
        raise _invalid("body.until", f"{wanted.until} is beyond {what}, {latest}: nothing to replay is there")
    since = wanted.since
    if since is not None and since >= until_:
        what = f"until {until_}" if wanted.until is not None else f"{until_}, the last event that is published"
        raise _invalid("body.since", f"the range is empty: it begins after {since} and ends with {what}")
    if until_ == 0:
        raise _invalid("body.until", "nothing of the account is published yet: there is nothing to replay")
    begin, end = _time("body.from", wanted.from_), _time("body.to", wanted.to)
    if begin is not None and end is not None and ticks(begin) >= ticks(end):
        raise _invalid("body.from", f"the range is empty: it begins at {begin} and ends before {end}")
    written = caller.written()
    return Replay(
        account=account,
        since=since,
        until=until_,
        begin=begin,
        end=end,
        kinds=None if wanted.kinds is None else tuple(_known_kind(kind) for kind in dict.fromkeys(wanted.kinds)),
        strategies=None if wanted.strategies is None else tuple(sorted(set(wanted.strategies))),
        destination=Destination(wanted.destination),
        requested_at=written.at,
        requested_by=written.by,
        written=written,
        request=_digest(wanted),
        incarnation=checkpoint_position_of(view, account).incarnation or UNSET,
    )


def check_same_history(view: View, account: str) -> None:
    """Raise Problem where the account is about to begin anew: what is asked of it now is of a history that ends."""
    desired = view.desired_of(account).desired
    if desired is None:
        return
    check_no_reset(view, account, desired)
    if desired.forget is True and checkpoint_position_of(view, account).incarnation > 0:
        detail = f"The checkpoint of account {account} is still being deleted. Ask again once it is."
        raise Problem(ProblemType.RESET_IN_PROGRESS, detail, retry_after=1)


def _time(where: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        if datetime.fromisoformat(text).tzinfo is None:
            raise _invalid(where, f"{text} has no offset: write it as {text}Z if it is UTC, or with +01:00 or the like")
        return canonical_time(text)
    except ValueError as error:
        raise _invalid(where, f"{text!r} is no time ({error})") from error


def _known_kind(kind: str) -> str:
    if kind in _KINDS:
        return kind
    close = nearest(kind, _KINDS)
    remedy = "/v1/topics names all" if close is None else f"did you mean {close}?"
    problem = _invalid("body.kinds", f"there is no kind {kind[:63]!r}: {remedy}")
    problem.nearest = close
    raise problem


def _invalid(where: str, problem: str) -> Problem:
    return Problem(ProblemType.INVALID, f"{where}: {problem}.", errors=(FieldError(where, problem),))


class ReplayRequests:
    """Writes what operators want of replays."""

    def __init__(self, deployment: DeploymentView) -> None:
        self._deployment = deployment

    def find(self, id_: str) -> Versioned[Replay]:
        """Return the record of a replay; raises Problem."""
        view = self._deployment.synced_view()
        sighting = view.replays.get(id_)
        if sighting is None:
            raise unknown(ProblemType.UNKNOWN_REPLAY, "replay", id_, ())
        return sighting

    async def create(self, wanted: models.ReplayWanted, account: str, caller: RequestCaller, key: str | None) -> str:
        """Write the requested replay, and return its id: the same for the same key."""
        view, store = self._deployment.view_of(account), self._deployment.writable_store()
        id_ = uuid4().hex if key is None else digest_of_key(caller.who.name, key)
        if id_ in view.replays:
            self._check_same(id_, wanted, account)
            return id_
        check_same_history(view, account)
        record = read_range(view, account, wanted, caller)
        open_ = sum(not phase_of(view, one).is_final for one in view.replays)
        if open_ >= self._deployment.replays.max_open:
            detail = f"{open_} replays wait or run, which is as many as may. Cancel one, or wait until one has ended."
            raise Problem(ProblemType.TOO_MANY_REPLAYS, detail, retry_after=_TOO_MANY)
        await self._write(store, of_replay(caller, "replay", id_, record), record, 0)
        if not await wait_until(lambda: id_ in view.replays, READ_TIMEOUT_S):
            raise _unknown(f"replay {id_}")
        self._check_same(id_, wanted, account)
        await self._forget_oldest(view, caller.who.accounts)
        return id_

    def _check_same(self, id_: str, wanted: models.ReplayWanted, account: str) -> None:
        found = self.find(id_).value
        if found is not None and (found.request, found.account) != (_digest(wanted), account):
            detail = f"This Idempotency-Key was used for replay {id_}, which is another: give each its own."
            raise Problem(ProblemType.KEY_REUSED, detail)

    async def cancel(self, id_: str, caller: RequestCaller) -> bool:
        """Request its end, and return whether it has ended so; raises Problem where it ended otherwise."""
        view, store = self._deployment.synced_view(), self._deployment.writable_store()
        while True:
            sighting = self.find(id_)
            if sighting.value is None:
                raise Problem(
                    ProblemType.WRITTEN_BY_NEWER_VERSION,
                    f"A newer release wrote replay {id_}. Ask a replica of that release.",
                )
            phase = phase_of(view, id_)
            if phase in {Phase.COMPLETED, Phase.FAILED}:
                raise Problem(
                    ProblemType.REPLAY_FINISHED, f"Replay {id_} is {phase.value}: there is nothing to cancel."
                )
            if sighting.value.cancel_requested:
                break
            revision = sighting.revision
            cancelled = replace(sighting.value, cancel_requested=True, written=caller.written())
            await self._write(store, of_replay(caller, "replay-cancel", id_, cancelled), cancelled, revision)
            if not await wait_until(lambda before=revision: self.find(id_).revision != before, READ_TIMEOUT_S):  # type: ignore[misc]
                raise _unknown(f"replay {id_}")
        return await wait_until(lambda: phase_of(view, id_).is_final, APPLY_TIMEOUT_S)

    async def _write(self, store: ControlStore, intent: Intent, record: Replay, revision: int) -> None:
        """Write `record` over its revision, unless another process has written; raises Problem if nothing is written.

        Where the broker's answer was lost, the view shows whether it is written.
        """
        auditing = self._deployment.auditing
        try:
            written = await store.write(f"{REPLAY}{intent.replay}", encode_record(record), revision)
        except Conflict:
            return  # another replica was asked the same
        except OutcomeUnknown as error:
            get_logger(account=record.account).warning("outcome of a replay write unknown", error=str(error))
            auditing.put(intent.record("unknown"))
        except BrokerError as error:
            raise broker_unavailable(str(error)) from error
        except BaseException:  # the caller left, or an unexpected error came: it may be written
            auditing.put(intent.record("unknown"))
            raise
        else:
            auditing.put(intent.record("made", written))
            await auditing.settle()

    async def _forget_oldest(self, view: View, scope: AccountScope) -> None:
        """Erase those that ended longest ago, beyond as many as are kept, of the accounts in the caller's scope.

        With a replay its Idempotency-Key is free again.
        """
        ended = [
            (one.written, id_)
            for id_, one in view.replay_states.items()
            if one.value and one.value.phase.is_final and (scope.is_all or _account_of(view, id_) in scope)
        ]
        ended.sort(reverse=True)
        await self.forget([id_ for _, id_ in ended[self._deployment.replays.keep_finished :]])

    async def forget(self, ids: Collection[str]) -> None:
        """Erase replays that have ended."""
        if ids:
            try:
                await self._deployment.writable_store().forget([REPLAY + id_ for id_ in ids])
            except (BrokerError, OutcomeUnknown) as error:  # the next one tries again
                get_logger().warning("failed to delete old finished replays", error=str(error))


def _account_of(view: View, id_: str) -> str:
    sighting = view.replays.get(id_)
    return "" if sighting is None or sighting.value is None else sighting.value.account


def phase_of(view: View, id_: str) -> Phase:
    """Return its phase: a replay without an owner is cancelled at once."""
    observed, wanted = state_of(view, id_), view.replays[id_].value
    if wanted is not None and wanted.cancel_requested and (observed is None or not observed.phase.is_final):
        seen = view.observed.get(wanted.account)
        is_key_missing = seen is None or (seen.value is not None and seen.value.state == "key_missing")
        if observed is None or is_key_missing:  # should the key come back, the owner's first step is to end it
            return Phase.CANCELLED
    return Phase.PENDING if observed is None else observed.phase


def state_of(view: View, id_: str) -> ReplayState | None:
    """Return what its owner reported last."""
    sighting = view.replay_states.get(id_)
    return None if sighting is None else sighting.value


def _digest(wanted: models.ReplayWanted) -> str:
    return hashlib.blake2b(wanted.model_dump_json().encode(), digest_size=16).hexdigest()


def _unknown(what: str) -> Problem:
    detail = f"The broker did not say whether {what} is written. Look at it, or ask again: with an Idempotency-Key "
    return Problem(ProblemType.OUTCOME_UNKNOWN, f"{detail}that does no harm.", retry_after=UNKNOWN)
