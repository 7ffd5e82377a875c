"""The resources of accounts: desired and observed state, and the ways to change it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Header, Query, Request, Response
from msgspec import UNSET
from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from gateway.control import account_list as listing
from gateway.control import models
from gateway.control.deployment_view import DeploymentView
from gateway.control.desired_state import DesiredStateWriter, IdempotentRequest
from gateway.control.etags import etag, read_condition
from gateway.control.middleware import add_audit_fields
from gateway.control.openapi import responses
from gateway.control.problems import FieldError, Problem, ProblemType
from gateway.control.routes.dependencies import (
    AccountName,
    DeploymentDep,
    IdempotencyKey,
    check_json,
    deployment_of,
    resource_router,
)
from gateway.session.subscriptions import check_strategies
from gateway.state import Desired, IdempotencyRecord, TargetState

router: Final = resource_router("/v1/accounts", "accounts")

_READS: Final = (ProblemType.INVALID, ProblemType.NOT_READY)
READS_ONE: Final = (*_READS, ProblemType.UNKNOWN_ACCOUNT)
CHANGES: Final = (
    *READS_ONE,
    ProblemType.WRITTEN_BY_NEWER_VERSION,
    ProblemType.TOO_MANY_CONCURRENT_UPDATES,
    ProblemType.BROKER_UNAVAILABLE,
    ProblemType.OUTCOME_UNKNOWN,
    ProblemType.TIMED_OUT,
)
_CONDITIONAL: Final = (*CHANGES, ProblemType.PRECONDITION_FAILED)
BODIES: Final = (*_CONDITIONAL, ProblemType.MALFORMED, ProblemType.UNSUPPORTED_MEDIA_TYPE)
ACCEPTED: Final = 202

_SUBSCRIPTION: Final[dict[str, Any]] = {
    "account": "main",
    "strategies": [1, 2],
    "revision": 57,
    "is_applied": True,
    "effective": models.SUBSCRIPTION,
}
_TARGET: Final[dict[str, Any]] = {"account": "main", "state": "paused", "revision": 58, "is_applied": True}


async def _writer_of(request: Request) -> DesiredStateWriter:
    found: DesiredStateWriter = request.app.state.desired_state
    return found


DesiredStateDep = Annotated[DesiredStateWriter, Depends(_writer_of)]
IfMatch = Annotated[
    str | SkipJsonSchema[None],
    Header(
        alias="If-Match",
        description="Change it only if this is still its ETag; `*`: only if it was ever wanted.",
        examples=["*"],
    ),
]


class _Filters(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    state: list[models.State] = Field(default_factory=list, max_length=20, examples=[["diverged", "unauthorized"]])
    """Only accounts that do one of these."""
    owner: str | SkipJsonSchema[None] = Field(default=None, min_length=1, max_length=300, examples=["gateway-0/1"])
    """Only accounts that this replica reported last."""
    prefix: str = Field(default="", max_length=63, examples=["ma"])
    """Only accounts whose names begin so."""
    sort: Literal["worst", "name"] = "worst"
    """By how bad it is, then by lag; or by name: then each account that stays is given exactly once over all parts."""
    limit: int = Field(default=100, ge=1, le=1000, examples=[50])
    """Accounts in this part at the most."""
    cursor: str | SkipJsonSchema[None] = Field(default=None, max_length=512)
    """`next` of the part before, with the same filters."""


@router.get(
    "",
    operation_id="listAccounts",
    summary="List accounts, the worst first",
    responses=responses({"items": [models.ACCOUNT], "next": None}, problems=_READS),
)
async def list_accounts(
    deployment: DeploymentDep, filters: Annotated[_Filters, Query()], request: Request
) -> models.Accounts:
    """Accounts of all replicas, as far as this one has heard: `age_seconds` says how long ago.

    A token that is for some accounts only sees those alone.
    """
    asked = listing.AccountQuery(
        states=filters.state,
        owner=filters.owner,
        prefix=filters.prefix,
        scope=request.state.who.accounts,
        sort=filters.sort,
        limit=filters.limit,
        cursor=filters.cursor,
    )
    return listing.page(deployment.synced_view(), asked, deployment.shards)


@router.get(
    "/{account}",
    operation_id="getAccount",
    summary="Show an account",
    responses=responses(models.ACCOUNT, problems=READS_ONE),
)
async def show_account(deployment: DeploymentDep, account: AccountName) -> models.Account:
    """The desired and the observed state of the account, side by side."""
    return listing.account(deployment.view_of(account), account, deployment.shards)


@router.get(
    "/{account}/subscription",
    operation_id="getSubscription",
    summary="Show an account's subscription",
    responses=responses(_SUBSCRIPTION, etag=True, problems=(*READS_ONE, ProblemType.WRITTEN_BY_NEWER_VERSION)),
)
async def show_subscription(deployment: DeploymentDep, account: AccountName, response: Response) -> models.Subscription:
    """Whose events are wanted, and whose are published."""
    desired, revision, applied = _desired_of(deployment, account, response)
    return _subscription(deployment, account, desired, revision, is_applied=applied)


@router.put(
    "/{account}/subscription",
    operation_id="putSubscription",
    summary="Choose whose events are published",
    responses=responses(_SUBSCRIPTION, later=models.Subscription, etag=True, problems=BODIES),
    dependencies=[Depends(check_json)],
)
async def put_subscription(  # noqa: PLR0917 - FastAPI gives them by name
    deployment: DeploymentDep,
    desired_state: DesiredStateDep,
    account: AccountName,
    body: models.SubscriptionWanted,
    request: Request,
    response: Response,
    if_match: IfMatch = None,
) -> models.Subscription:
    """It holds for events from now on; what goes to the hub is the difference alone."""
    wanted = None if body.strategies is None else tuple(sorted(set(body.strategies)))
    return await _subscribe(deployment, desired_state, account, wanted, request, response, if_match)


@router.delete(
    "/{account}/subscription",
    operation_id="deleteSubscription",
    summary="Publish the events of all strategies again",
    responses=responses(
        {**_SUBSCRIPTION, "strategies": None}, later=models.Subscription, etag=True, problems=_CONDITIONAL
    ),
)
async def delete_subscription(  # noqa: PLR0917 - FastAPI gives them by name
    deployment: DeploymentDep,
    desired_state: DesiredStateDep,
    account: AccountName,
    request: Request,
    response: Response,
    if_match: IfMatch = None,
) -> models.Subscription:
    """The default: all, also strategies that are made later."""
    return await _subscribe(deployment, desired_state, account, None, request, response, if_match)


@router.get(
    "/{account}/target-state",
    operation_id="getTargetState",
    summary="Show whether an account is to run",
    responses=responses(_TARGET, etag=True, problems=(*READS_ONE, ProblemType.WRITTEN_BY_NEWER_VERSION)),
)
async def show_target_state(deployment: DeploymentDep, account: AccountName, response: Response) -> models.TargetState:
    """The desired state, and whether it is applied."""
    desired, revision, applied = _desired_of(deployment, account, response)
    return models.TargetState(account=account, state=desired.state.value, revision=revision, is_applied=applied)


@router.put(
    "/{account}/target-state",
    operation_id="putTargetState",
    summary="Pause or resume an account",
    responses=responses(
        _TARGET, later=models.TargetState, etag=True, problems=(*BODIES, ProblemType.RESET_IN_PROGRESS)
    ),
    dependencies=[Depends(check_json)],
)
async def put_target_state(  # noqa: PLR0917 - FastAPI gives them by name
    deployment: DeploymentDep,
    desired_state: DesiredStateDep,
    account: AccountName,
    body: models.TargetStateWanted,
    request: Request,
    response: Response,
    if_match: IfMatch = None,
) -> models.TargetState:
    """A paused account has no connection to the hub. Nothing is lost: history gives it again."""
    add_audit_fields(request, state=body.state)
    target = TargetState(body.state)

    def change(desired: Desired) -> Desired:
        if target is TargetState.PAUSED:
            return replace(desired, state=target)
        listing.check_no_reset(deployment.view_of(account), account, desired)
        # Neither is done again at the next pause.
        return replace(desired, state=target, reset=UNSET, forget=UNSET)

    changed = await desired_state.change(
        account, change, request.state.caller, "target-state", read_condition(if_match)
    )
    applied = await _answer(desired_state, account, changed.revision, response)
    response.headers["ETag"] = etag(changed.revision)
    return models.TargetState(account=account, state=body.state, revision=changed.revision, is_applied=applied)


@router.post(
    "/{account}/reconnect",
    operation_id="reconnect",
    summary="Let an account connect to the hub anew",
    responses=responses(
        {"account": "main", "reconnects": 3, "is_applied": True},
        later=models.Reconnect,
        problems=(*CHANGES, ProblemType.PAUSED, ProblemType.KEY_REUSED),
    ),
)
async def reconnect(
    desired_state: DesiredStateDep,
    account: AccountName,
    request: Request,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> models.Reconnect:
    """Its connection is let go and made again at once, also where it waited to try again."""
    who = request.state.who.name
    once = None if idempotency_key is None else IdempotentRequest.of(who, idempotency_key, f"reconnect of {account}")

    def change(desired: Desired) -> Desired:
        answered = None if once is None else once.answered(desired)
        if answered is not None:
            raise _AlreadyAnswered(answered)
        if desired.state is TargetState.PAUSED:
            raise Problem(ProblemType.PAUSED, f"Account {account} is paused: it has no connection. Let it run instead.")
        more = replace(desired, reconnects=desired.reconnects + 1)
        return more if once is None else once.remember(more, more.reconnects)

    try:
        changed = await desired_state.change(account, change, request.state.caller, "reconnect")
    except _AlreadyAnswered as already:
        add_audit_fields(request, repeated=True)
        count, revision = already.answered.result, _changed(await deployment_of(request), account)[1]
    else:
        count, revision = changed.desired.reconnects if changed.desired else 0, changed.revision
    applied = await _answer(desired_state, account, revision, response)
    return models.Reconnect(account=account, reconnects=count, is_applied=applied)


class _AlreadyAnswered(Exception):
    """The request was carried out before."""

    def __init__(self, answered: IdempotencyRecord) -> None:
        super().__init__()
        self.answered = answered


async def _subscribe(  # noqa: PLR0917 - what FastAPI gave
    deployment: DeploymentView,
    desired_state: DesiredStateWriter,
    account: str,
    wanted: tuple[int, ...] | None,
    request: Request,
    response: Response,
    if_match: str | None,
) -> models.Subscription:
    add_audit_fields(request, strategies="all" if wanted is None else len(wanted))
    try:
        check_strategies(None if wanted is None else frozenset(wanted))
    except ValueError as error:
        raise Problem(ProblemType.INVALID, f"{error}.", errors=(FieldError("body.strategies", str(error)),)) from error
    condition = read_condition(if_match)
    changed = await desired_state.change(
        account,
        lambda desired: replace(desired, strategies=wanted),
        request.state.caller,
        "subscription",
        condition,
    )
    applied = await _answer(desired_state, account, changed.revision, response)
    response.headers["ETag"] = etag(changed.revision)
    assert changed.desired is not None  # noqa: S101 - what was written is known
    return _subscription(deployment, account, changed.desired, changed.revision, is_applied=applied)


async def _answer(desired_state: DesiredStateWriter, account: str, revision: int, response: Response) -> bool:
    """Wait for the owner, and answer 202 where it takes longer."""
    applied = await desired_state.until_applied(account, revision)
    if not applied:
        response.status_code = ACCEPTED
    return applied


def _changed(deployment: DeploymentView, account: str) -> tuple[Desired, int]:
    desired = deployment.view_of(account).desired_of(account)
    if desired.desired is None:
        detail = f"A newer release wrote the desired state of account {account}. Ask a replica of that release."
        raise Problem(ProblemType.WRITTEN_BY_NEWER_VERSION, detail)
    return desired.desired, desired.revision


def _desired_of(deployment: DeploymentView, account: str, response: Response) -> tuple[Desired, int, bool]:
    """Return the desired state, its revision and whether it is applied; the revision is the answer's ETag."""
    desired, revision = _changed(deployment, account)
    response.headers["ETag"] = etag(revision)
    return desired, revision, listing.is_applied(deployment.view_of(account), account)


def _subscription(
    deployment: DeploymentView, account: str, desired: Desired, revision: int, *, is_applied: bool
) -> models.Subscription:
    return models.Subscription(
        account=account,
        strategies=listing.as_list(desired.strategies),
        revision=revision,
        is_applied=is_applied,
        effective=listing.effective_of(deployment.view_of(account), account),
    )
