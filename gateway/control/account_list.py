"""Accounts as the API shows them: a single one, or many, filtered, sorted and in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from msgspec import UNSET

from gateway import state
from gateway.accounts import shard_of
from gateway.broker.control_view import STALE_AFTER_S, Versioned, View
from gateway.control import models
from gateway.control.auth.principals import EVERY_ACCOUNT, AccountScope
from gateway.control.pagination import no_cursor, read_cursor, write_cursor
from gateway.control.problems import Problem, ProblemType

Sort = Literal["worst", "name"]

_RANK: Final = {name: rank for rank, name in enumerate(get_args(models.State))}
_RANK_OF_STALE: Final = _RANK["offline"]
"""A report that is old ranks at least as this."""
_NOT_REPORTED: Final = _RANK["orphaned"]
"""No replica has ever reported it."""

Place = tuple[int, int, str]
"""What accounts are sorted by: how bad it is, the negative of the lag, and the name."""


@dataclass(frozen=True, slots=True)
class AccountQuery:
    """The requested accounts."""

    states: Sequence[str] = ()
    """Any where empty."""
    owner: str | None = None
    prefix: str = ""
    """What their names begin with."""
    scope: AccountScope = EVERY_ACCOUNT
    """Of the caller."""
    sort: Sort = "worst"
    limit: int = 100
    cursor: str | None = None


def account(view: View, name: str, shards: int) -> models.Account:
    """Show one account."""
    wanted = _desired(view, name)
    seen = _observed(view, name)
    return models.Account(
        account=name,
        shard=shard_of(name, shards),
        is_applied=is_applied(view, name),
        desired=wanted,
        observed=seen,
    )


def page(view: View, asked: AccountQuery, shards: int) -> models.Accounts:
    """Show a part of the accounts: at most `limit`, after `cursor`."""
    after = None if asked.cursor is None else _after(asked, asked.cursor)
    places = sorted(_places(view, asked))
    if after is not None:
        places = [place for place in places if place > after]
    shown = places[: asked.limit]
    return models.Accounts(
        items=[account(view, name, shards) for _, _, name in shown],
        next=write_cursor((asked.sort, *shown[-1])) if len(places) > len(shown) else None,
    )


def is_applied(view: View, name: str) -> bool:
    """Return whether the whole desired state of an account is applied, as its owner reported last."""
    sighting = view.observed.get(name)
    if sighting is None or sighting.value is None:
        return False
    revision = view.desired_of(name).revision
    return sighting.value.applied >= revision and (revision > 0 or sighting.value.state == "live")


def checkpoint_position_of(view: View, name: str) -> state.CheckpointPosition:
    """Return the checkpoint that the owner reported last; of incarnation 0 where there is none."""
    sighting = view.observed.get(name)
    observed = None if sighting is None else sighting.value
    return state.CheckpointPosition(0, 0) if observed is None or observed.checkpoint is UNSET else observed.checkpoint


def check_no_reset(view: View, name: str, desired: state.Desired) -> None:
    """Raise Problem where the owner has not set the checkpoint yet that is desired."""
    if desired.reset is not UNSET and checkpoint_position_of(view, name).incarnation < desired.reset.incarnation:
        detail = f"The checkpoint of account {name} is still being set. Ask again once it is."
        raise Problem(ProblemType.RESET_IN_PROGRESS, detail, retry_after=1)


def _is_stale(view: View, sighting: Versioned[state.Observed]) -> bool:
    """Return whether a report is so old that no replica may serve the account."""
    return view.age(sighting) > STALE_AFTER_S


def effective_of(view: View, name: str) -> models.EffectiveSubscription | None:
    """Show the subscription that holds, as the owner reported last."""
    sighting = view.observed.get(name)
    return None if sighting is None or sighting.value is None else _effective(sighting.value)


def as_list(strategies: tuple[int, ...] | None) -> list[int] | None:
    """Return strategies as JSON has them."""
    return None if strategies is None else list(strategies)


def _places(view: View, asked: AccountQuery) -> Iterator[Place]:
    for name in view.observed.keys() | view.desired.keys():
        if not name.startswith(asked.prefix) or name not in asked.scope:
            continue
        sighting = view.observed.get(name)
        observed = None if sighting is None else sighting.value
        if asked.states and (observed is None or observed.state not in asked.states):
            continue
        if asked.owner is not None and (observed is None or observed.owner != asked.owner):
            continue
        yield (0, 0, name) if asked.sort == "name" else (*_badness(view, sighting), name)


def _badness(view: View, sighting: Versioned[state.Observed] | None) -> tuple[int, int]:
    if sighting is None or sighting.value is None:
        return _NOT_REPORTED, 0
    rank = _RANK.get(sighting.value.state, 0)
    if _is_stale(view, sighting):
        rank = min(rank, _RANK_OF_STALE)
    return rank, -(_lag(sighting.value) or 0)


def _lag(observed: state.Observed) -> int | None:
    if observed.latest is UNSET or observed.settled is UNSET:
        return None
    return max(0, observed.latest - observed.settled)


def _desired(view: View, name: str) -> models.Desired | None:
    desired, sighting = view.desired_of(name), view.desired.get(name)
    if desired.desired is None:
        return None
    return models.Desired(
        state=desired.desired.state.value,
        strategies=as_list(desired.desired.strategies),
        reconnects=desired.desired.reconnects,
        revision=desired.revision,
        age_seconds=None if sighting is None else round(view.age(sighting), 3),
    )


def _observed(view: View, name: str) -> models.Observed | None:
    sighting = view.observed.get(name)
    if sighting is None or sighting.value is None:
        return None
    observed, age = sighting.value, view.age(sighting)
    return models.Observed(
        state=observed.state,
        since=observed.since or None,
        owner=observed.owner,
        settled=None if observed.settled is UNSET else observed.settled,
        latest=None if observed.latest is UNSET else observed.latest,
        lag=models.Lag(
            sequences=_lag(observed), seconds=0.0 if observed.lag_seconds is UNSET else observed.lag_seconds
        ),
        published=observed.published,
        connects=observed.connects,
        last_error=observed.last_error,
        subscription=_effective(observed),
        enums=models.Enums(
            forms=[] if observed.enum_forms is UNSET else list(observed.enum_forms),
            unnamed=[] if observed.unnamed_enums is UNSET else list(observed.unnamed_enums),
        ),
        applied=observed.applied,
        age_seconds=round(age, 3),
        is_stale=age > STALE_AFTER_S,
    )


def _effective(observed: state.Observed) -> models.EffectiveSubscription:
    return models.EffectiveSubscription(
        strategies=as_list(observed.strategies), failed_strategies=list(observed.failed_strategies)
    )


def _after(asked: AccountQuery, cursor: str) -> Place:
    """Return the place behind which the part begins."""
    of = f"by {asked.sort}"
    sort, rank, lag, name = read_cursor(cursor, tuple[str, int, int, str], of)
    if sort != asked.sort:
        raise no_cursor(of)
    return rank, lag, name
