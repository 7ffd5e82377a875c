"""Keeps callers to the accounts that are in their scope, on every path that names an account or a replay.

An account out of scope does not exist for a reader. A caller that would change it gets 403, whether it exists or not. A
replay of one does not exist for either: its id may follow from another caller's Idempotency-Key, which can be guessed.
So no answer shows a caller which accounts exist outside its scope, or who requests replays.
"""

from __future__ import annotations

from fastapi import Request

from gateway.control.auth.principals import Principal
from gateway.control.deployment_view import DeploymentView
from gateway.control.problems import Problem, ProblemType, unknown

_READS = frozenset({"GET", "HEAD"})


async def check_scope(request: Request) -> None:
    """Raise Problem where the path names an account, or a replay of one, that the caller's token is not for."""
    who: Principal = request.state.who
    if who.accounts.is_all:
        return
    deployment: DeploymentView = request.app.state.deployment
    account, replay = request.path_params.get("account"), request.path_params.get("replay")
    if account is not None:
        _check_account(who, deployment, account, is_read=request.method in _READS)
    if replay is not None:
        _check_replay(who, deployment, replay)


def _check_account(who: Principal, deployment: DeploymentView, account: str, *, is_read: bool) -> None:
    if account not in who.accounts and not is_read:
        raise _forbidden(who)
    view = deployment.synced_view()
    names = [name for name in view.observed.keys() | view.desired.keys() if name in who.accounts]
    if account not in names:
        raise unknown(ProblemType.UNKNOWN_ACCOUNT, "account", account, names)


def _check_replay(who: Principal, deployment: DeploymentView, replay: str) -> None:
    found = deployment.synced_view().replays.get(replay)
    if found is None or found.value is None or found.value.account not in who.accounts:
        raise unknown(ProblemType.UNKNOWN_REPLAY, "replay", replay, ())


def _forbidden(who: Principal) -> Problem:
    patterns = ",".join(who.accounts.patterns or ())
    return Problem(ProblemType.FORBIDDEN, f"The token of {who.name} is for the accounts {patterns} only.")
