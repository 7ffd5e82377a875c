"""The parts that several operations share: routers and dependencies (the deployment, names in paths, headers)."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Path, Request
from fastapi.routing import APIRoute
from pydantic import StringConstraints
from pydantic.json_schema import SkipJsonSchema

from gateway.control.deployment_view import DeploymentView
from gateway.control.problems import FieldError, Problem, ProblemType
from gateway.control.scoping import check_scope

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_CONDITIONS: Final = ("If-Match", "If-None-Match", "If-Unmodified-Since")
"""Headers that forbid a change where they do not hold. If-Modified-Since and Range have no meaning for changes."""
_NO_BODY: Final = frozenset({b"", b"{}", b"null"})
"""Bodies that ask for nothing: some clients send one with each POST."""


async def check_change(request: Request) -> None:
    """Raise Problem where a change would be made although the request asks for more, or for less, than is looked at.

    Each query parameter, each body and each condition that an operation does not know may be what should limit it:
    `?dry_run=true`, strategies in the body of a DELETE, or the ETag that the caller has seen. Of a member that stands
    twice in a body, Python takes the last, and other programs take the first.
    """
    if request.method in _READS:
        return
    route: APIRoute = request.scope["route"]
    for name in request.query_params:
        raise _not_known(f"query.{name[:63]}", "a change takes no parameters in its query")
    known = {field.alias for field in route.dependant.header_params}
    for name in _CONDITIONS:
        if name in request.headers and name not in known:
            raise _not_known(f"header.{name}", "this operation takes no such condition")
    body = await request.body()
    if route.body_field is None:
        if body.strip() not in _NO_BODY:
            raise _not_known("body", "this operation takes no body")
    elif body:
        json.loads(body, object_pairs_hook=_each_once)


def _each_once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in members:
        if name in found:
            where = f"body.{name[:63].encode(errors='backslashreplace').decode()}"
            raise _not_known(where, "stands twice: which of the two is meant is not known")
        found[name] = value
    return found


def _not_known(where: str, problem: str) -> Problem:
    detail = f"{where}: {problem}. Nothing was changed."
    return Problem(ProblemType.INVALID, detail, errors=(FieldError(where, problem),))


def resource_router(prefix: str, tag: str) -> APIRouter:
    """Return a router for the operations of a resource.

    Each of them keeps callers to the accounts in their scope, and refuses a change that it would only half look at.
    """
    return APIRouter(prefix=prefix, tags=[tag], dependencies=[Depends(check_scope), Depends(check_change)])


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
