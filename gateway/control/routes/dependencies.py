"""The parts that several operations share: routers and dependencies (the deployment, names in paths, headers)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Request
from pydantic import StringConstraints
from pydantic.json_schema import SkipJsonSchema

from gateway.control.deployment_view import DeploymentView
from gateway.control.problems import Problem, ProblemType
from gateway.control.scoping import check_scope


def resource_router(prefix: str, tag: str) -> APIRouter:
    """Return a router for the operations of a resource: each of them keeps callers to the accounts in their scope."""
    return APIRouter(prefix=prefix, tags=[tag], dependencies=[Depends(check_scope)])


async def deployment_of(request: Request) -> DeploymentView:
    """Return the deployment that the API shows.

    A coroutine, as every dependency here: FastAPI runs plain functions in threads, which costs more than all else.
    """
    found: DeploymentView = request.app.state.deployment
    return found


async def check_json(request: Request) -> None:
    """Raise Problem for a body that is not declared as JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem(
            ProblemType.UNSUPPORTED_MEDIA_TYPE, "Send the body as JSON, with `Content-Type: application/json`."
        )


DeploymentDep = Annotated[DeploymentView, Depends(deployment_of)]
AccountName = Annotated[
    str,
    Path(
        alias="account",
        description="The operator's name for the account.",
        examples=["main"],
        json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"},
    ),
]
IdempotencyHeader = Annotated[str, StringConstraints(pattern="^[!-~]{1,255}$")]
IdempotencyKey = Annotated[
    IdempotencyHeader | SkipJsonSchema[None],
    Header(
        alias="Idempotency-Key",
        description="Of your choice: however often a request with it is sent, and to whichever replica, it is "
        "carried out once.",
        examples=["5f0e3c1a-1b6f-4f0e-9a52-0f1d1c8f3a77"],
    ),
]
