"""Every refusal as an RFC 9457 problem, each with a type that stays the same through all releases."""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import msgspec

from gateway.errors import GatewayError

MEDIA_TYPE: Final = "application/problem+json"
NAMESPACE: Final = "urn:mesolive:gateway:problem:"
SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
"""Headers that every answer has."""
_TYPING_ERRORS: Final = 3
"""Letters by which a name that was meant may be longer or shorter."""
_CANDIDATES: Final = 40
"""Names that are compared letter by letter."""
_LONGEST: Final = 63
"""Letters of the longest name that anything here has."""


class ProblemType(Enum):
    """What can be wrong: the end of the problem's type, its status and its title."""

    MALFORMED = "malformed", 400, "Malformed request"
    UNAUTHENTICATED = "unauthenticated", 401, "Authentication required"
    FORBIDDEN = "forbidden", 403, "Forbidden"
    ORIGIN_NOT_ALLOWED = "origin-not-allowed", 403, "Origin not allowed"
    NOT_FOUND = "not-found", 404, "Not found"
    UNKNOWN_ACCOUNT = "unknown-account", 404, "Unknown account"
    UNKNOWN_REPLAY = "unknown-replay", 404, "Unknown replay"
    UNKNOWN_KIND = "unknown-kind", 404, "Unknown event kind"
    METHOD_NOT_ALLOWED = "method-not-allowed", 405, "Method not allowed"
    TOO_SLOW = "too-slow", 408, "Request not received in time"
    REPLAY_FINISHED = "replay-finished", 409, "Replay already finished"
    PAUSED = "paused", 409, "Account is paused"
    NOT_PAUSED = "not-paused", 409, "Account is not paused"
    RESET_IN_PROGRESS = "reset-in-progress", 409, "Checkpoint reset in progress"
    HAS_REPLAYS = "has-replays", 409, "Account has open replays"
    WRITTEN_BY_NEWER_VERSION = "written-by-newer-version", 409, "Written by a newer version"
    TOO_MANY_CONCURRENT_UPDATES = "too-many-concurrent-updates", 409, "Too many concurrent updates"
    PRECONDITION_FAILED = "precondition-failed", 412, "Precondition failed"
    TOO_LARGE = "too-large", 413, "Request body too large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type", 415, "Unsupported media type"
    INVALID = "invalid", 422, "Invalid request"
    KEY_REUSED = "idempotency-key-reused", 422, "Idempotency-Key reused for another request"
    TOO_MANY_REPLAYS = "too-many-replays", 429, "Too many open replays"
    PRECONDITION_REQUIRED = "precondition-required", 428, "If-Match required"
    INTERNAL = "internal", 500, "Internal error"
    BUSY = "busy", 503, "Too many requests in progress"
    NOT_READY = "not-ready", 503, "Not ready"
    BROKER_UNAVAILABLE = "broker-unavailable", 503, "Broker unavailable"
    OUTCOME_UNKNOWN = "outcome-unknown", 503, "Outcome unknown"
    TIMED_OUT = "timed-out", 503, "Request timed out"

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value[1]

    @property
    def type(self) -> str:
        """The URN that programs look at."""
        return NAMESPACE + self.value[0]


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong in a request."""

    where: str
    """Such as `body.strategies.0` or `query.limit`."""
    problem: str


@dataclass(eq=False)
class Problem(GatewayError):
    """A request cannot be fulfilled."""

    kind: ProblemType
    detail: str
    """What was wrong and what would be right, for people."""
    nearest: str | None = None
    """The name that may have been meant."""
    errors: tuple[FieldError, ...] = ()
    retry_after: int | None = None
    """Seconds after which another try may end otherwise."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.detail

    def body(self, instance: str, request_id: str) -> bytes:
        """Return the JSON of the answer."""
        body: dict[str, Any] = {
            "type": self.kind.type,
            "title": self.kind.value[2],
            "status": self.kind.status,
            "detail": self.detail,
            "instance": instance,
            "request_id": request_id,
        }
        if self.nearest is not None:
            body["nearest"] = self.nearest
        if self.errors:
            body["errors"] = [{"where": fault.where, "problem": fault.problem} for fault in self.errors]
        return msgspec.json.encode(body)

    @property
    def all_headers(self) -> dict[str, str]:
        """Return the headers that belong to it."""
        found = {"content-type": MEDIA_TYPE, **self.headers}
        if self.retry_after is not None:
            found["retry-after"] = str(self.retry_after)
        return found


def unknown(kind: ProblemType, what: str, name: str, names: Iterable[str]) -> Problem:
    """Return the problem of a name that nothing has, with the nearest that something has."""
    shown = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    close = nearest(name, names)
    remedy = "" if close is None else f" Did you mean {close}?"
    return Problem(kind, f"There is no {what} {shown!r}.{remedy}", nearest=close)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that may have been meant by `name`.

    difflib takes up to 0.2 ms for a pair of names, so it is given few: of many names those that share the longest
    beginning with `name`, and those that share the longest end.
    """
    if len(name) > _LONGEST:
        return None
    wanted = name.lower()
    folded = {other.lower(): other for other in names if abs(len(other) - len(name)) <= _TYPING_ERRORS}
    if wanted in folded:
        return folded[wanted]
    candidates = list(folded)
    if len(candidates) > _CANDIDATES:
        backwards = _around(wanted[::-1], [other[::-1] for other in candidates])
        candidates = [*_around(wanted, candidates), *(other[::-1] for other in backwards)]
    close = difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.5)
    return folded[close[0]] if close else None


def _around(name: str, names: list[str]) -> list[str]:
    """Return the names next to `name` in their order: no others begin with more of its letters."""
    names.sort()
    at = bisect_left(names, name)
    return names[max(0, at - _CANDIDATES // 4) : at + _CANDIDATES // 4]
