"""The API put together: its resources, its problems and its OpenAPI document."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from copy import deepcopy
from functools import cache
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route

from gateway import __version__
from gateway.control.deployment_view import DeploymentView
from gateway.control.desired_state import DesiredStateWriter
from gateway.control.openapi import finalize
from gateway.control.problems import FieldError, Problem, ProblemType
from gateway.control.replay_requests import ReplayRequests
from gateway.control.routes import accounts, checkpoints, reference, replays

_TITLE: Final = "MesoLive event gateway"
_ABOUT: Final = """\
Any replica serves every account. A change is stored as desired state and applied by the replica that owns the account:
200 if applied within 3 s, otherwise 202.

Errors are problems as RFC 9457 has them; their types stay the same."""
_DOCUMENT: Final = "/openapi.json"
_ROUTERS: Final = (accounts.router, checkpoints.router, replays.router, reference.router)
_NOT_FOUND: Final = 404
_NOT_ALLOWED: Final = 405
_FAULTS: Final = 10
"""Faults that are reported in one answer."""


def create_app(deployment: DeploymentView) -> FastAPI:
    """Assemble the API; the gate decides who may call it."""
    app = FastAPI(
        title=_TITLE,
        version=__version__,
        description=_ABOUT,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.deployment = deployment
    app.state.desired_state = DesiredStateWriter(deployment)
    app.state.replaying = ReplayRequests(deployment)
    for router in _ROUTERS:  # as they are: `include_router` makes each route once more, which takes 0.13 s in all
        app.router.routes.extend(router.routes)

    @cache
    def document() -> bytes:
        """Write it with the first request for it: that takes 0.15 s, and few request it."""
        return _text(_document(app)).encode()

    async def show_document(_: Request) -> Response:
        return Response(await asyncio.to_thread(document), media_type="application/json")

    app.router.routes.append(Route(_DOCUMENT, show_document, methods=["GET"]))
    app.state.paths = _paths(app.router.routes)
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_failure)
    return app


def openapi_text() -> str:
    """Return the OpenAPI 3.1 document, as `schemas/openapi.json` has it."""
    return _text(_document(create_app(DeploymentView())))


def _document(app: FastAPI) -> dict[str, Any]:
    document = deepcopy(app.openapi())
    finalize(document)
    return document


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _answer(request: Request, problem: Problem) -> Response:
    body = problem.body(request.url.path, getattr(request.state, "request_id", ""))
    return Response(body, status_code=problem.kind.status, headers=problem.all_headers)


async def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - it is registered for them
    return _answer(request, error)


async def _answer_failure(request: Request, _: Exception) -> Response:
    return _answer(request, Problem(ProblemType.INTERNAL, "The gateway's log says more under the request_id."))


async def _answer_invalid(request: Request, error: Exception) -> Response:
    """Answer what is wrong with a request, never what it held: it may be a secret in the wrong place."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - it is registered for them
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        reason = str(found[0].get("ctx", {}).get("error", "it cannot be read"))
        return _answer(request, Problem(ProblemType.MALFORMED, f"The body is not JSON: {reason}."))
    faults = tuple(FieldError(".".join(map(str, one["loc"])), _problem_of(one)) for one in found[:_FAULTS])
    detail = "; ".join(f"{fault.where}: {fault.problem}" for fault in faults[:3])
    return _answer(request, Problem(ProblemType.INVALID, f"{detail}.", errors=faults))


def _problem_of(error: dict[str, Any]) -> str:
    message = str(error["msg"])
    return "is not known here" if error["type"] == "extra_forbidden" else message[:1].lower() + message[1:]


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for them
    if error.status_code == _NOT_FOUND:
        detail = "There is nothing at this path: /openapi.json says what there is."
        return _answer(request, Problem(ProblemType.NOT_FOUND, detail))
    if error.status_code == _NOT_ALLOWED:
        paths: dict[re.Pattern[str], list[str]] = request.app.state.paths
        methods = next((methods for path, methods in paths.items() if path.fullmatch(request.url.path)), [])
        allowed = ", ".join(methods)
        detail = f"{request.method} is not among what this path takes: {allowed}."
        return _answer(request, Problem(ProblemType.METHOD_NOT_ALLOWED, detail, headers={"allow": allowed}))
    return _answer(request, Problem(ProblemType.MALFORMED, "The body cannot be read as JSON."))


def _paths(routes: Iterable[BaseRoute]) -> dict[re.Pattern[str], list[str]]:
    """Return the methods of each path: Starlette names those of one route alone."""
    found: dict[re.Pattern[str], list[str]] = {}
    for route in routes:
        assert isinstance(route, Route)  # noqa: S101 - nothing else is served here
        methods = found.setdefault(route.path_regex, [])
        methods += sorted(route.methods or ())
    return {path: _with_head(sorted(methods)) for path, methods in found.items()}


def _with_head(methods: list[str]) -> list[str]:
    """Return the methods, with HEAD where there is GET: the gate lets it be answered as one."""
    return sorted({*methods, "HEAD"}) if "GET" in methods else methods
