"""Negotiation: ask the hub where and with which token the WebSocket is to be opened.

Source: ASP.NET Core's docs/specs/TransportProtocols.md. Azure SignalR Service answers with a `url` and an `accessToken`
of its own, which are followed a few times.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qs, parse_qsl, quote, urljoin, urlsplit, urlunsplit

import aiohttp
import msgspec

from gateway.errors import ConnectFailed
from gateway.signalr.transport import Transport, refusal, shown, stage

_MAX_REDIRECTS: Final = 5
_MAX_BODY: Final = 1024 * 1024
_OK: Final = 200
_LONG: Final = 16
"""Characters from which on a value in a redirect's query may be a token."""
_STAGE: Final = "negotiate"


@dataclass(slots=True)
class Route:
    """The way to one WebSocket, as far as it is known."""

    url: str = field(repr=False)
    key: str = field(repr=False)
    """The account's own, for the origin of this first URL only."""
    further: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further headers, likewise for that origin only."""
    bearer: str | None = field(default=None, repr=False)
    """The token that the place which sent us on gave for where we are now."""
    token: str | None = field(default=None, repr=False)
    """The connection token, once negotiated."""
    cookies: dict[str, str] = field(default_factory=dict, repr=False)
    """Those of the answer, for the same origin only: a balancer's affinity holds for one connect of one account."""
    secrets: list[str] = field(default_factory=list, repr=False)
    """Keys and tokens on the way: none of them may show in any text."""

    _home: tuple[str, str] = field(init=False, repr=False)
    _home_host: str | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.secrets.append(self.key)
        home = urlsplit(self.url)
        self._home, self._home_host = _origin(home), home.hostname

    def headers(self) -> dict[str, str]:
        """Return the headers that identify the gateway, for a host that may have them."""
        is_home = _origin(urlsplit(self.url)) == self._home
        headers = dict(self.further) if is_home else {}
        bearer = self.bearer or (self.key if is_home else None)
        if bearer is not None:
            headers["Authorization"] = f"Bearer {bearer}"
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return headers

    def is_at_home(self, parts: SplitResult) -> bool:
        """Return whether a URL leads to the host that we set out for, at whatever port."""
        return parts.hostname == self._home_host

    def negotiate_url(self) -> str:
        """Return the URL to negotiate at."""
        parts = urlsplit(self.url)
        path = parts.path.rstrip("/") + "/negotiate"
        return _with_query(parts._replace(path=path), "" if _has_version(parts) else "negotiateVersion=1")

    def websocket_url(self) -> str:
        """Return the URL of the WebSocket."""
        parts = urlsplit(self.url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        return _with_query(parts._replace(scheme=scheme), f"id={quote(self.token, safe='')}" if self.token else "")


class _Offer(msgspec.Struct):
    transport: str
    transferFormats: list[str] = []  # noqa: N815 - the wire's name


class _Answer(msgspec.Struct):
    """The members of a negotiate answer that matter."""

    connectionToken: str | None = None  # noqa: N815 - the wire's name
    connectionId: str | None = None  # noqa: N815 - the wire's name
    url: str | None = None
    accessToken: str | None = None  # noqa: N815 - the wire's name
    error: str | None = None
    availableTransports: list[_Offer] | None = None  # noqa: N815 - the wire's name


_decode = msgspec.json.Decoder(_Answer).decode


async def negotiate(transport: Transport, url: str, key: str) -> Route:
    """Negotiate at `url` and wherever it sends us; raises Unauthorized and ConnectFailed."""
    route = Route(url, key, transport.headers)
    async with stage(_STAGE, transport.connect_timeout, route.secrets):
        for _ in range(_MAX_REDIRECTS + 1):
            answer = _read(await _post(transport, route), route)
            if not answer.url:
                return _settle(route, answer)
            _follow(route, answer.url, answer.accessToken, transport.may_go_to)
        raise ConnectFailed(f"{_STAGE}: redirected more than {_MAX_REDIRECTS} times", reason=_STAGE)


async def _post(transport: Transport, route: Route) -> bytes:
    request = transport.http.post(
        route.negotiate_url(), headers=route.headers(), proxy=transport.proxy, allow_redirects=False
    )
    async with request as response:
        if response.status != _OK:
            raise refusal(_STAGE, response.status, response.headers, route.secrets)
        route.cookies |= {name: morsel.coded_value for name, morsel in response.cookies.items()}
        route.secrets += route.cookies.values()
        return await _read_body(response)


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MAX_BODY:
            raise ConnectFailed(f"{_STAGE}: the answer is longer than {_MAX_BODY} bytes", reason=_STAGE)
    return bytes(body)


def _read(body: bytes, route: Route) -> _Answer:
    try:
        answer = _decode(body.removeprefix(BOM_UTF8))
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        # JSON may hold an unknown token; a page of HTML helps to see who answered
        quoted = "" if body.lstrip()[:1] in {b"{", b"["} else f"; it begins {body[:80]!r}"
        problem = shown(f"the answer is no SignalR negotiation ({error}){quoted}", route.secrets)
        raise ConnectFailed(f"{_STAGE}: {problem}", reason=_STAGE) from None
    route.secrets += filter(None, [answer.accessToken, answer.connectionToken, answer.connectionId])
    if answer.error:  # an empty text is none, as it is to Microsoft's clients
        raise ConnectFailed(f"{_STAGE}: {shown(answer.error, route.secrets)}", reason=_STAGE)
    return answer


def _settle(route: Route, answer: _Answer) -> Route:
    route.token = answer.connectionToken or answer.connectionId
    route.bearer = answer.accessToken or route.bearer  # without a url too, as Microsoft's clients take it
    if not route.token:
        raise ConnectFailed(f"{_STAGE}: the answer has neither a connectionToken nor a url", reason=_STAGE)
    offers = answer.availableTransports
    if offers is not None and not any(o.transport == "WebSockets" and "Text" in o.transferFormats for o in offers):
        names = shown(", ".join(offer.transport for offer in offers) or "nothing")
        raise ConnectFailed(f"{_STAGE}: the hub offers no WebSockets for text, only {names}", reason=_STAGE)
    return route


def _follow(route: Route, url: str, access_token: str | None, may_go_to: Callable[[str], bool]) -> None:
    """Go on at `url`, which may be relative; raises ConnectFailed where no one should go."""
    before = urlsplit(route.url)
    after = urlsplit(urljoin(route.url, url))
    problem = None
    if after.scheme not in {"http", "https"} or not after.hostname:
        problem = "no http or https URL"
    elif after.username is not None or after.password is not None:
        problem = "a URL with a user or a password"
    elif before.scheme == "https" and after.scheme == "http":
        problem = "a URL without TLS"
    elif not route.is_at_home(after) and not may_go_to(after.hostname):
        problem = f"{shown(after.hostname)}, which is not the hub's host and not in hub.redirect_hosts"
    if problem is not None:
        raise ConnectFailed(f"{_STAGE}: redirected to {problem}", reason=_STAGE)
    if _origin(before) != _origin(after):
        route.cookies = {}
        route.bearer = None
    route.url = urlunsplit(after._replace(fragment=""))
    route.secrets += [value for _, value in parse_qsl(after.query) if len(value) >= _LONG]
    route.bearer = access_token or route.bearer


def _origin(parts: SplitResult) -> tuple[str, str]:
    return parts.scheme, parts.netloc.lower()


def _has_version(parts: SplitResult) -> bool:
    return "negotiateVersion" in parse_qs(parts.query, keep_blank_values=True)


def _with_query(parts: SplitResult, addition: str) -> str:
    return urlunsplit(parts._replace(query="&".join(filter(None, [parts.query, addition])), fragment=""))
