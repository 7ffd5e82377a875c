"""What decides whether a request may use resources: its share of the requests at once, its origin, its body."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.types import Receive, Scope

from gateway.control.auth.principals import LOCAL, Principal, Role
from gateway.control.problems import Problem, ProblemType

_NOT_OF_FORMS: Final = frozenset({b"authorization", b"idempotency-key", b"x-request-id", b"x-requested-with"})
"""Headers that no HTML form sends, and no script of another origin without asking first (CORS)."""
_JSON: Final = b"application/json"
_SAME: Final = frozenset({b"same-origin", b"none"})
"""Values of Sec-Fetch-Site of a request that no other site caused."""


class RequestSlots:
    """Requests that are answered at once: a share for each principal, and some that only operators may take."""

    def __init__(self, at_once: int, each: int, for_operators: int) -> None:
        self._at_once = at_once
        self._each = each
        self._for_others = max(1, at_once - for_operators)
        self._taken: Counter[Principal] = Counter()

    @contextmanager
    def taken(self, who: Principal) -> Iterator[None]:
        """Take a slot for `who` as long as the context lasts; raises Problem if there is none."""
        total = self._taken.total()
        if who != LOCAL and self._taken[who] >= self._each:  # all of this machine are one principal
            raise _busy(f"{self._each} requests of {who.name}")
        if total >= (self._at_once if who.role is Role.OPERATOR else self._for_others):
            raise _busy(f"{total} requests")
        self._taken[who] += 1
        try:
            yield
        finally:
            self._taken[who] -= 1
            if not self._taken[who]:
                del self._taken[who]


def _busy(what: str) -> Problem:
    return Problem(ProblemType.BUSY, f"{what} are being answered. Ask again in a moment.", retry_after=1)


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header of this name."""
    return next((value for key, value in scope["headers"] if key == name), None)


def check_local(scope: Scope) -> None:
    """Refuse what a web page may have made a browser of this machine send.

    Without tokens only the loopback address protects the API, and a browser reaches that for any page: under another
    name (DNS rebinding), or across origins. PUT and DELETE need no further look: no form sends them, and a script of
    another origin must ask first, which is refused.
    """
    host = header(scope, b"host") or b""
    if not _is_loopback(host.decode("latin-1")):
        detail = "Without control.tokens_file only http://127.0.0.1 and http://localhost are answered."
        raise Problem(ProblemType.ORIGIN_NOT_ALLOWED, detail)
    origin = header(scope, b"origin")
    site = header(scope, b"sec-fetch-site")
    is_same = origin is None or origin.lower() == f"{scope['scheme']}://".encode() + host.lower()
    if not is_same or (site is not None and site not in _SAME):
        detail = "Without control.tokens_file pages of other origins are not answered."
        raise Problem(ProblemType.ORIGIN_NOT_ALLOWED, detail)
    if scope["method"] == "POST" and not _is_deliberate(scope):
        detail = (
            "Without control.tokens_file a POST needs a header that no web form can send: add "
            "`Content-Type: application/json` or an `Idempotency-Key`."
        )
        raise Problem(ProblemType.ORIGIN_NOT_ALLOWED, detail)


def _is_deliberate(scope: Scope) -> bool:
    kind = (header(scope, b"content-type") or b"").partition(b";")[0].strip().lower()
    return kind == _JSON or any(name in _NOT_OF_FORMS for name, _ in scope["headers"])


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


async def read_body(scope: Scope, receive: Receive, *, at_most: int, seconds: float) -> bytes:
    """Return the whole body; raises Problem if it is larger than `at_most` or slower than `seconds`."""
    length = header(scope, b"content-length")
    if length is not None and int(length) > at_most:
        raise _too_large(f"{int(length)} bytes", at_most)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Problem(ProblemType.MALFORMED, "The connection ended before the body did.")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > at_most:
                    raise _too_large("more", at_most)
    except TimeoutError:
        detail = f"The body did not come within {seconds:g} s."
        raise Problem(ProblemType.TOO_SLOW, detail, headers={"connection": "close"}) from None
    return bytes(body)


def _too_large(size: str, at_most: int) -> Problem:
    return Problem(ProblemType.TOO_LARGE, f"The body has {size}, and at most {at_most} bytes are read.")
