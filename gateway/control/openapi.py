"""What the OpenAPI document says of every operation: its examples, and the problems that it may answer with."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from gateway.control import problem_models
from gateway.control.problems import MEDIA_TYPE, ProblemType

Responses = dict[int | str, dict[str, Any]]

_ALWAYS: Final = (
    *(ProblemType.MALFORMED, ProblemType.UNAUTHENTICATED, ProblemType.FORBIDDEN, ProblemType.ORIGIN_NOT_ALLOWED),
    *(ProblemType.TOO_SLOW, ProblemType.TOO_LARGE, ProblemType.INTERNAL, ProblemType.BUSY),
)
_REQUEST_ID: Final = {
    "X-Request-Id": {
        "description": "The gateway's own id of the request, as in its log; the caller's stands there beside it.",
        "schema": {"type": "string"},
    }
}
_ETAG: Final = {"ETag": {"description": "The revision of the account's desired state.", "schema": {"type": "string"}}}
_LOCATION: Final = {"Location": {"description": "Where to read it.", "schema": {"type": "string"}}}
_LATER: Final = {ProblemType.BUSY.status, ProblemType.TOO_MANY_REPLAYS.status}
_RETRY_AFTER: Final = {"Retry-After": {"description": "Seconds after which to retry.", "schema": {"type": "integer"}}}


def responses(
    example: dict[str, Any],
    *,
    status: int = 200,
    later: type[BaseModel] | None = None,
    later_example: dict[str, Any] | None = None,
    etag: bool = False,
    location: bool = False,
    problems: tuple[ProblemType, ...],
) -> Responses:
    """Return an operation's answers: `example`, also 202 where it may hold `later`, and problems."""
    headers = _REQUEST_ID | (_ETAG if etag else {}) | (_LOCATION if location else {})
    response = {"headers": headers, "content": {"application/json": {"example": example}}}
    found: Responses = {status: {**response, "description": "Success." if later is None else "Stored and applied."}}
    if later is not None:
        found[202] = {
            **response,
            "model": later,
            "description": "Stored; the account's owner will apply it.",
            "content": {"application/json": {"example": {**example, **(later_example or {"is_applied": False})}}},
        }
    by_status: dict[int, list[ProblemType]] = {}
    for kind in sorted({*_ALWAYS, *problems}, key=lambda kind: (kind.status, kind.type)):
        by_status.setdefault(kind.status, []).append(kind)
    for code, kinds in by_status.items():
        found[code] = {
            "model": problem_models.Problem,
            "description": "; ".join(f"`{kind.type}`: {kind.value[2]}" for kind in kinds),
            "headers": _REQUEST_ID | (_RETRY_AFTER if code in _LATER else {}),
            "content": {MEDIA_TYPE: {"example": _example(kinds[0])}},
        }
    return found


def finalize(document: dict[str, Any]) -> None:
    """Correct what FastAPI documents wrongly: the media type of problems, and its own form of them."""
    components = document["components"]
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    for operation in (one for path in document["paths"].values() for one in path.values()):
        operation["responses"] = dict(sorted(operation["responses"].items()))
        for response in operation["responses"].values():
            content = response["content"]
            if MEDIA_TYPE in content:
                (other,) = content.keys() - {MEDIA_TYPE}  # that of the good answer
                content[MEDIA_TYPE] = {**content.pop(other), **content[MEDIA_TYPE]}
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "As `gateway token` makes it."}
    }
    document["security"] = [{"token": []}]


def _example(kind: ProblemType) -> dict[str, Any]:
    example = {
        "type": kind.type,
        "title": kind.value[2],
        "status": kind.status,
        "detail": f"{kind.value[2]}.",
        "instance": "/v1/accounts/main",
        "request_id": "0f8fad5bd9cb469fa16570867728950e",
    }
    if kind is ProblemType.UNKNOWN_ACCOUNT:
        example |= {"detail": "There is no account 'mian'. Did you mean main?", "nearest": "main"}
    return example
