"""The resources of replays: create, read, cancel."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from gateway.broker.control_view import View
from gateway.control import models
from gateway.control.middleware import add_audit_fields
from gateway.control.openapi import responses
from gateway.control.pagination import read_cursor, write_cursor
from gateway.control.problems import Problem, ProblemType
from gateway.control.replay_requests import ReplayRequests, phase_of, state_of
from gateway.control.routes.dependencies import AccountName, DeploymentDep, IdempotencyKey, check_json, resource_router
from gateway.state import Phase, Replay, ReplayState

router: Final = resource_router("/v1", "replays")

_READS: Final = (ProblemType.INVALID, ProblemType.NOT_READY)
_WRITES: Final = (
    *_READS,
    ProblemType.BROKER_UNAVAILABLE,
    ProblemType.OUTCOME_UNKNOWN,
    ProblemType.TIMED_OUT,
    ProblemType.WRITTEN_BY_NEWER_VERSION,
)
_ACCEPTED: Final = 202


async def _requests_of(request: Request) -> ReplayRequests:
    found: ReplayRequests = request.app.state.replaying
    return found


ReplayRequestsDep = Annotated[ReplayRequests, Depends(_requests_of)]
Id = Annotated[
    str,
    Path(
        alias="replay",
        description="The id that asking for it gave.",
        examples=[models.REPLAY["id"]],
        json_schema_extra={"pattern": "^[0-9a-f]{32}$"},
    ),
]


class _Filters(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    account: str | SkipJsonSchema[None] = Field(default=None, min_length=1, max_length=63, examples=["main"])
    """Only those of this account."""
    state: list[Literal["pending", "running", "completed", "failed", "cancelled"]] = Field(
        default_factory=list, max_length=5, examples=[["pending", "running"]]
    )
    """Only those in one of these states."""
    limit: int = Field(default=100, ge=1, le=1000, examples=[50])
    """Replays in this part at the most."""
    cursor: str | SkipJsonSchema[None] = Field(default=None, max_length=512)
    """`next` of the part before, with the same filters."""


@router.post(
    "/accounts/{account}/replays",
    operation_id="createReplay",
    summary="Publish a range of an account's history again",
    status_code=_ACCEPTED,
    responses=responses(
        models.REPLAY,
        status=_ACCEPTED,
        location=True,
        problems=(
            *_WRITES,
            ProblemType.UNKNOWN_ACCOUNT,
            ProblemType.MALFORMED,
            ProblemType.UNSUPPORTED_MEDIA_TYPE,
            ProblemType.KEY_REUSED,
            ProblemType.TOO_MANY_REPLAYS,
            ProblemType.RESET_IN_PROGRESS,
        ),
    ),
    dependencies=[Depends(check_json)],
)
async def create_replay(  # noqa: PLR0917 - FastAPI gives them by name
    deployment: DeploymentDep,
    replay_requests: ReplayRequestsDep,
    account: AccountName,
    body: models.ReplayWanted,
    request: Request,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> models.Replay:
    """It is carried out beside what is new, at a pace, each event once, and outlives every restart.

    Its messages bear `replayid`, and go to the topic `replay` unless the events' own are asked for. The account's
    progress stays where it is. Only what is final is replayed: a range that ends with the newest events waits until
    they are.
    """
    id_ = await replay_requests.create(body, account, request.state.caller, idempotency_key)
    add_audit_fields(request, replay=id_)
    response.headers["Location"] = f"/v1/replays/{id_}"
    return _shown(deployment.synced_view(), id_)


@router.get(
    "/replays",
    operation_id="listReplays",
    summary="List replays, the newest first",
    responses=responses({"items": [models.REPLAY], "next": None}, problems=_READS),
)
async def list_replays(
    deployment: DeploymentDep, filters: Annotated[_Filters, Query()], request: Request
) -> models.Replays:
    """Those of all accounts that the token is for; of those that have ended, the last ones."""
    view = deployment.synced_view()
    wanted = {Phase(one) for one in filters.state}
    places = sorted(
        (
            (one.value.requested_at, id_)
            for id_, one in view.replays.items()
            if one.value is not None
            and one.value.account in request.state.who.accounts
            and (filters.account is None or one.value.account == filters.account)
            and (not wanted or phase_of(view, id_) in wanted)
        ),
        reverse=True,
    )
    if filters.cursor is not None:
        after = read_cursor(filters.cursor, tuple[str, str], "of replays")
        places = [place for place in places if place < after]
    shown = places[: filters.limit]
    return models.Replays(
        items=[_shown(view, id_) for _, id_ in shown],
        next=write_cursor(shown[-1]) if len(places) > len(shown) else None,
    )


@router.get(
    "/replays/{replay}",
    operation_id="getReplay",
    summary="Show a replay",
    responses=responses(
        models.REPLAY, problems=(*_READS, ProblemType.UNKNOWN_REPLAY, ProblemType.WRITTEN_BY_NEWER_VERSION)
    ),
)
async def show_replay(deployment: DeploymentDep, replay_requests: ReplayRequestsDep, replay: Id) -> models.Replay:
    """What was asked for, and how far it is, as its owner reported last."""
    replay_requests.find(replay)
    return _shown(deployment.synced_view(), replay)


@router.post(
    "/replays/{replay}/cancel",
    operation_id="cancelReplay",
    summary="Cancel a replay",
    responses=responses(
        {**models.REPLAY, "state": "cancelled", "cancel_requested": True},
        later=models.Replay,
        later_example={"state": "running"},
        problems=(*_WRITES, ProblemType.UNKNOWN_REPLAY, ProblemType.REPLAY_FINISHED),
    ),
)
async def cancel_replay(
    deployment: DeploymentDep, replay_requests: ReplayRequestsDep, replay: Id, request: Request, response: Response
) -> models.Replay:
    """What is published stays published. To cancel it twice does no harm."""
    if not await replay_requests.cancel(replay, request.state.caller):
        response.status_code = _ACCEPTED
    return _shown(deployment.synced_view(), replay)


def _shown(view: View, id_: str) -> models.Replay:
    sighting = view.replays[id_]
    wanted, seen = sighting.value, state_of(view, id_)
    if wanted is None:
        raise Problem(
            ProblemType.WRITTEN_BY_NEWER_VERSION, f"A newer release wrote replay {id_}. Ask a replica of that release."
        )
    reported = view.replay_states.get(id_)
    return models.Replay(
        id=id_,
        account=wanted.account,
        state=phase_of(view, id_).value,
        since=wanted.since,
        until=wanted.until,
        from_=wanted.begin,
        to=wanted.end,
        kinds=None if wanted.kinds is None else list(wanted.kinds),
        strategies=None if wanted.strategies is None else list(wanted.strategies),
        destination=wanted.destination.value,
        requested_at=wanted.requested_at,
        requested_by=wanted.requested_by,
        cancel_requested=wanted.cancel_requested,
        progress=models.ReplayProgress(
            fraction=_fraction(wanted, seen),
            position=None if seen is None else seen.position,
            read=0 if seen is None else seen.read,
            published=0 if seen is None else seen.published,
            events_per_second=0.0 if seen is None else seen.rate,
            seconds_left=None if seen is None else seen.seconds_left,
        ),
        detail=None if seen is None else seen.detail,
        owner=None if seen is None else seen.owner,
        started=None if seen is None else seen.started,
        ended=None if seen is None else seen.ended,
        age_seconds=None if reported is None else round(view.age(reported), 3),
    )


def _fraction(wanted: Replay, seen: ReplayState | None) -> float:
    if seen is None or seen.origin is None or seen.position is None:
        return 0.0
    return round(min(1.0, (seen.position - seen.origin) / max(1, wanted.until - seen.origin)), 4)
