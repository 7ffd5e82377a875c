"""Checkpoints that operators set again, and accounts that they erase for good.

Both are only done to an account at rest: paused, or without a key. The account's owner carries them out, in a commit of
its shard that announces it to consumers.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Depends, Header, Request, Response
from msgspec import UNSET
from msgspec.structs import replace
from pydantic.json_schema import SkipJsonSchema

from gateway.broker.control_view import View
from gateway.control import models
from gateway.control.account_list import checkpoint_position_of
from gateway.control.deployment_view import DeploymentView
from gateway.control.desired_state import APPLY_TIMEOUT_S, broker_unavailable, wait_until
from gateway.control.etags import tags_of
from gateway.control.middleware import add_audit_fields
from gateway.control.openapi import responses
from gateway.control.problems import FieldError, Problem, ProblemType
from gateway.control.replay_requests import phase_of
from gateway.control.routes.accounts import ACCEPTED, BODIES, CHANGES, READS_ONE, DesiredStateDep
from gateway.control.routes.dependencies import AccountName, DeploymentDep, check_json, resource_router
from gateway.state import CheckpointPosition, Desired, Observed, Reset, TargetState

router: Final = resource_router("/v1/accounts", "accounts")

_CHECKPOINT: Final[dict[str, Any]] = {"account": "main", "verified": 181000, "incarnation": 2, "is_applied": True}


@router.get(
    "/{account}/checkpoint",
    operation_id="getCheckpoint",
    summary="Show how far an account is published",
    responses=responses(_CHECKPOINT, etag=True, problems=READS_ONE),
)
async def show_checkpoint(deployment: DeploymentDep, account: AccountName, response: Response) -> models.Checkpoint:
    """As its owner reported last; while the account is paused it stays so."""
    position = checkpoint_position_of(deployment.view_of(account), account)
    response.headers["ETag"] = _tag(position)
    return _shown(account, position, is_applied=True)


@router.put(
    "/{account}/checkpoint",
    operation_id="putCheckpoint",
    summary="Let a paused account begin anew",
    responses=responses(
        _CHECKPOINT,
        later=models.Checkpoint,
        etag=True,
        problems=(*BODIES, ProblemType.NOT_PAUSED, ProblemType.HAS_REPLAYS, ProblemType.PRECONDITION_REQUIRED),
    ),
    dependencies=[Depends(check_json)],
)
async def put_checkpoint(  # noqa: PLR0917 - FastAPI gives them by name
    deployment: DeploymentDep,
    desired_state: DesiredStateDep,
    account: AccountName,
    body: models.CheckpointWanted,
    request: Request,
    response: Response,
    if_match: Annotated[
        str | SkipJsonSchema[None],
        Header(
            alias="If-Match",
            description="The checkpoint's ETag, needed: what is not known to be as it was seen is not overwritten.",
            examples=['"1-181004"'],
        ),
    ] = None,
) -> models.Checkpoint:
    """Everything after `verified` is published, again or for the first time, once the account runs.

    It is how an account goes on whose hub began anew, or whose checkpoint was lost. Consumers are told by a
    notification of the type `checkpoint-reset`.
    """
    add_audit_fields(request, verified=body.verified)
    view = _until_observed(deployment, account)
    position = checkpoint_position_of(view, account)
    if if_match is None:
        detail = f"Read the checkpoint of account {account}, and send its ETag in If-Match."
        raise Problem(ProblemType.PRECONDITION_REQUIRED, detail)
    if _tag(position) not in tags_of(if_match):
        detail = f"The checkpoint of account {account} has the ETag {_tag(position)}. Read it again, decide again."
        raise Problem(ProblemType.PRECONDITION_FAILED, detail, headers={"etag": _tag(position)})
    observed = _at_rest(view, account, "reset")
    _check_replays(view, account)
    reported = () if observed is None else (observed.latest, observed.settled, position.verified)
    known = max((number for number in reported if number is not UNSET), default=0)
    if body.verified > known:
        detail = f"{body.verified} is beyond the last event that is known, {known}: events between would be lost"
        raise Problem(ProblemType.INVALID, f"body.verified: {detail}.", errors=(FieldError("body.verified", detail),))
    reset = Reset(position.incarnation + 1, body.verified)

    def change(desired: Desired) -> Desired:
        if desired.state is not TargetState.PAUSED:
            raise _not_paused(account, "reset")
        pending = desired.reset
        if pending is not UNSET and pending != reset and pending.incarnation >= reset.incarnation:
            detail = (
                f"Another reset of account {account} is being carried out. Read the checkpoint again, decide again."
            )
            raise Problem(ProblemType.PRECONDITION_FAILED, detail)
        return replace(desired, reset=reset, forget=UNSET)

    await desired_state.change(account, change, request.state.caller, "checkpoint")
    wanted = CheckpointPosition(reset.verified, reset.incarnation)
    applied = await wait_until(lambda: checkpoint_position_of(view, account) == wanted, APPLY_TIMEOUT_S)
    if not applied:
        response.status_code = ACCEPTED
    response.headers["ETag"] = _tag(wanted)
    return _shown(account, wanted, is_applied=applied)


@router.delete(
    "/{account}",
    operation_id="deleteAccount",
    summary="Forget an account",
    responses=responses(
        {"account": "main", "is_applied": True},
        later=models.Forgotten,
        problems=(*CHANGES, ProblemType.NOT_PAUSED, ProblemType.HAS_REPLAYS),
    ),
)
async def delete_account(
    deployment: DeploymentDep,
    desired_state: DesiredStateDep,
    account: AccountName,
    request: Request,
    response: Response,
) -> models.Forgotten:
    """How far it is published is forgotten, for good; what is published stays.

    It must be paused, or have no key. With a key it stays paused, and begins as a new one when it is let run;
    without one, nothing is left of it.
    """
    view = _until_observed(deployment, account)
    sighting = view.observed.get(account)
    observed = None if sighting is None or view.is_abandoned(sighting) else sighting.value
    must_be_paused = observed is not None and observed.state != "key_missing"
    if must_be_paused:
        _at_rest(view, account, "forgotten")
    _check_replays(view, account)

    def change(desired: Desired) -> Desired:
        if must_be_paused and desired.state is not TargetState.PAUSED:
            raise _not_paused(account, "forgotten")
        return replace(desired, state=TargetState.PAUSED, forget=True, reset=UNSET)

    changed = await desired_state.change(account, change, request.state.caller, "forget")

    def is_so() -> bool:
        seen = view.observed.get(account)
        if seen is None or seen.value is None:
            return account not in view.desired
        return seen.value.applied >= changed.revision and seen.value.checkpoint is UNSET

    applied = await wait_until(is_so, APPLY_TIMEOUT_S)
    if not applied:
        response.status_code = ACCEPTED
    return models.Forgotten(account=account, is_applied=applied)


def _until_observed(deployment: DeploymentView, account: str) -> View:
    """Return the view of the accounts; raises Problem where it is too old to show which are at rest."""
    view = deployment.view_of(account)
    if view.is_cut_off:
        raise broker_unavailable(f"this replica has not heard from the broker for {view.silence:.0f} s")
    return view


def _check_replays(view: View, account: str) -> None:
    """Raise Problem where replays wait or run: they would go on in another history."""
    for id_, replay in view.replays.items():
        if replay.value is not None and replay.value.account == account and not phase_of(view, id_).is_final:
            detail = (
                f"Replay {id_} of account {account} is {phase_of(view, id_).value}: cancel it, or wait for its end."
            )
            raise Problem(ProblemType.HAS_REPLAYS, detail)


def _tag(position: CheckpointPosition) -> str:
    return f'"{position.incarnation}-{position.verified}"'


def _at_rest(view: View, account: str, what: str) -> Observed | None:
    """Return the report of a paused account, as every replica has received it; raises Problem where it is not."""
    desired, sighting = view.desired_of(account), view.observed.get(account)
    observed = None if sighting is None else sighting.value
    is_wanted = desired.desired is None or desired.desired.state is TargetState.PAUSED
    if not is_wanted or observed is None or observed.state != "paused" or observed.applied < desired.revision:
        raise _not_paused(account, what)
    return observed


def _not_paused(account: str, what: str) -> Problem:
    detail = f"Account {account} is not paused, or not yet: only one at rest is {what}. PUT its target-state first."
    return Problem(ProblemType.NOT_PAUSED, detail)


def _shown(account: str, position: CheckpointPosition, *, is_applied: bool) -> models.Checkpoint:
    verified = position.verified if position.incarnation else None
    return models.Checkpoint(
        account=account, verified=verified, incarnation=position.incarnation, is_applied=is_applied
    )
