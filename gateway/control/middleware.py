"""What every request passes first: limits on its size, its time and the number beside it, and authentication.

It is plain ASGI around the API, so that nothing inside can be reached without it; every answer leaves with the same
headers, also a refusal. Each change that a known caller requests is a line in the log, whether it was made or refused;
requests of unknown callers are counted and summed up.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.control.admission import RequestSlots, check_local, header, read_body
from gateway.control.auth.callers import RequestCaller
from gateway.control.auth.principals import LOCAL, Principal, Role
from gateway.control.auth.tokens import PREFIX, Tokens
from gateway.control.listener.refused import RefusedRequests
from gateway.control.problems import SECURITY, Problem, ProblemType
from gateway.telemetry.control_counts import ANONYMOUS, ControlCounters
from gateway.telemetry.logs import get_audit_logger, get_logger

BODY: Final = 64 * 1024
"""Maximum bytes of a body."""
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_CLIENT_REQUEST_ID: Final = re.compile(rb"[ -~]{1,128}")
_TOKEN: Final = re.compile(rf"{PREFIX}[A-Za-z0-9_-]+")
_REFUSALS: Final = {
    ProblemType.UNAUTHENTICATED: "unauthenticated",
    ProblemType.FORBIDDEN: "forbidden",
    ProblemType.ORIGIN_NOT_ALLOWED: "origin-not-allowed",
    ProblemType.BUSY: "busy",
}
"""Refusals that are counted, as the metric has them."""
_LOG_EXCERPT_CHARS: Final = 200
"""Letters of a method, and of a path, that a line of the log shows."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What requests may take."""

    at_once: int = 64
    """Requests that are being answered."""
    each: int = 16
    """Of them, those of one principal."""
    for_operators: int = 16
    """Of them, those that are kept for operators."""
    reading: float = 10.0
    """Seconds for the body to come."""
    answering: float = 20.0
    """Seconds until the answer begins: a broker that falls silent is noticed before."""


@dataclass(slots=True)
class _Exchange:
    """One request on its way."""

    scope: Scope
    send: Send
    request_id: str
    """Of our own: callers may choose the same, or that of another caller."""
    client_request_id: str | None
    """The caller's."""
    status: int = 0
    who: Principal | None = None
    refusal: str = ""
    """Why it was refused, as a metric has it."""

    @property
    def address(self) -> str | None:
        """Where it comes from."""
        client = self.scope.get("client")
        return None if client is None else str(client[0])

    async def forward(self, message: Message) -> None:
        """Send a part of the answer, with the headers that all have."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = (*SECURITY, (b"x-request-id", self.request_id.encode()))
            message["headers"] = [*message.get("headers", ()), *own]
        await self.send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem."""
        path = str(self.scope["path"])
        body = problem.body(path, self.request_id)
        headers = [(name.encode(), value.encode("latin-1")) for name, value in problem.all_headers.items()]
        headers.append((b"content-length", str(len(body)).encode()))
        await self.forward({"type": "http.response.start", "status": problem.kind.status, "headers": headers})
        await self.forward({"type": "http.response.body", "body": body})


class AdmissionMiddleware:
    """Lets requests through to `app`."""

    def __init__(
        self,
        app: ASGIApp,
        tokens: Tokens | None,
        limits: RequestLimits | None = None,
        counts: ControlCounters | None = None,
    ) -> None:
        """Without `tokens` every caller on this machine may do everything."""
        self.refused = RefusedRequests()
        self._app = app
        self._tokens = tokens
        self._limits = limits or RequestLimits()
        self._slots = RequestSlots(self._limits.at_once, self._limits.each, self._limits.for_operators)
        self._counts = ControlCounters() if counts is None else counts
        self._log = get_logger()
        self._audit = get_audit_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        assert scope["type"] == "http"  # noqa: S101 - the server offers nothing else
        passage = _Exchange(scope, send, uuid4().hex, _client_request_id(scope))
        try:
            await self._admit(passage, receive)
        except Problem as problem:
            await self._reject(passage, problem)
        except asyncio.CancelledError:  # the process ends, and this took longer than it may
            detail = "This replica ends. What was asked for may or may not be done: look, or ask another."
            await self._reject(passage, Problem(ProblemType.OUTCOME_UNKNOWN, detail, retry_after=1))
            raise
        except Exception:  # noqa: BLE001 - whatever it was, the answer is a problem, and the gateway goes on
            self._log.exception(
                "request failed",
                request_id=passage.request_id,
                client_request_id=passage.client_request_id,
                path=_path(scope),
            )
            detail = "The gateway's log says more under the request_id."
            await self._reject(passage, Problem(ProblemType.INTERNAL, detail))
        finally:
            self._log_request(passage)

    async def _admit(self, passage: _Exchange, receive: Receive) -> None:
        scope = passage.scope
        who = passage.who = self._authenticate(scope)
        if scope["method"] not in _READS and who.role is not Role.OPERATOR:
            detail = f"{who.name} is a {who.role.value}: only an operator may change something."
            raise Problem(ProblemType.FORBIDDEN, detail)
        with self._slots.taken(who):
            await self._answer(passage, who, receive)

    async def _answer(self, passage: _Exchange, who: Principal, receive: Receive) -> None:
        scope = passage.scope
        body = await read_body(scope, receive, at_most=BODY, seconds=self._limits.reading)
        scope.setdefault("state", {})
        caller = RequestCaller(who, passage.request_id, passage.client_request_id, passage.address)
        scope["state"] |= {"who": who, "request_id": passage.request_id, "caller": caller, "change": {}}
        is_read = False

        async def receive_again() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            async with asyncio.timeout(self._limits.answering) as limit:

                async def forward(message: Message) -> None:
                    limit.reschedule(None)  # how long the caller may take to read it, the connection decides
                    await passage.forward(message)

                inner = _as_get(scope)
                await self._app(inner, receive_again, forward)
            scope.setdefault("route", inner.get("route"))  # the request's span names it
        except TimeoutError:
            detail = f"There was no answer within {self._limits.answering:g} s. Read the state, then retry."
            raise Problem(ProblemType.TIMED_OUT, detail, retry_after=5) from None

    def _authenticate(self, scope: Scope) -> Principal:
        if self._tokens is None:
            check_local(scope)
            return LOCAL
        given = header(scope, b"authorization") or b""
        scheme, _, token = given.partition(b" ")
        who = self._tokens.authenticate(token.strip().decode("latin-1")) if scheme.lower() == b"bearer" else None
        if who is None:
            detail = "The token is not known." if given else "There is no token: send `Authorization: Bearer …`."
            raise Problem(ProblemType.UNAUTHENTICATED, detail, headers={"www-authenticate": 'Bearer realm="gateway"'})
        return who

    def is_known(self, scope: Scope) -> bool:
        """Return whether a request is from an authenticated caller."""
        try:
            self._authenticate(scope)
        except Problem:
            return False
        return True

    async def _reject(self, passage: _Exchange, problem: Problem) -> None:
        passage.refusal = _REFUSALS.get(problem.kind, "")
        if passage.status == 0:  # else the answer has begun, and the server ends it as one that was cut off
            await passage.refuse(problem)

    def _log_request(self, passage: _Exchange) -> None:
        """Count the request, and log a change that a known caller requested."""
        scope, who = passage.scope, passage.who
        self._counts.on_answer(ANONYMOUS if who is None else who.role.value, passage.status)
        refusal = passage.refusal or ("forbidden" if passage.status == ProblemType.FORBIDDEN.status else "")
        if refusal:
            self._counts.on_refusal(refusal)
        if who is None:
            if refusal:
                self.refused.on_anonymous(refusal, passage.address)
            return
        is_made = 0 < passage.status < ProblemType.MALFORMED.status
        if scope["method"] in _READS or not self.refused.is_line(who.name, is_made=is_made):
            return
        self._audit.info(
            "change requested",
            who=who.name,
            role=who.role.value,
            what=f"{scope['method'][:_LOG_EXCERPT_CHARS]} {_path(scope)}",
            status=passage.status,
            request_id=passage.request_id,
            client_request_id=passage.client_request_id,
            address=passage.address,
            **scope.get("state", {}).get("change", {}),
        )


def _as_get(scope: Scope) -> Scope:
    """Return the scope for the app, which answers a HEAD as a GET: the server leaves the body out."""
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope


def _client_request_id(scope: Scope) -> str | None:
    given = header(scope, b"x-request-id")
    return given.decode() if given is not None and _CLIENT_REQUEST_ID.fullmatch(given) else None


def _path(scope: Scope) -> str:
    """Return the path as it came, which is printable, without a token that a caller wrote into it."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return _TOKEN.sub(f"{PREFIX}…", raw.decode("ascii", "backslashreplace"))[:_LOG_EXCERPT_CHARS]


def add_audit_fields(request: Request, **facts: str | int) -> None:
    """Add fields about the change to the line of the log."""
    request.state.change.update(facts)
