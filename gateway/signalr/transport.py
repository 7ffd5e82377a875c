"""How connections to the hub are made, and the edge where an HTTP library's errors become ours.

No text that leaves here holds a key or a token: the texts of the hub or a library go through `shown`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

import aiohttp

from gateway.errors import ConnectFailed, Unauthorized, forget_frames
from gateway.http_errors import error_message
from gateway.printable import printable
from gateway.signalr import protocol

MAX_RETRY_AFTER: Final = 600.0
"""Seconds of a Retry-After that are honoured: no answer keeps an account away for longer than ten minutes."""

_REFUSALS: Final = {401, 403}
_NOT_FOUND: Final = 404
_SWITCHING: Final = 101
_REDIRECTS: Final = {301, 302, 303, 307, 308}
_MIN_SECRET: Final = 6
_MAX_SHOWN: Final = 300
_SPACES: Final = dict.fromkeys(map(ord, "\t\r\n"), " ")
"""What a text of several lines has between its words."""


@dataclass(frozen=True, slots=True)
class Transport:
    """How connections are made; one for all of a process."""

    http: aiohttp.ClientSession
    """Holds the TLS context and the connector; it must keep no cookies (`DummyCookieJar`), since thousands of accounts
    share it."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further headers for the hub's own origin, which may hold secrets: no place that a hub sends us to gets them."""
    connect_timeout: float = 15.0
    """Seconds for negotiate (all its redirects), upgrade and handshake each."""
    call_timeout: float = 30.0
    """Seconds for the answer to a call."""
    ping_interval: float = 15.0
    """Seconds between our pings: the hub counts our silence."""
    silence_timeout: float = 30.0
    """Seconds without a record after which the hub is taken to be gone; it pings each 15 s."""
    max_record: int = protocol.MAX_RECORD
    """Bytes of one record."""
    proxy: str | None = field(default=None, repr=False)
    """URL of an HTTP proxy; may hold a password. `http` makes tunnels through it where it is a session with
    `TunnelledRequest` and `TunnellingConnector`."""
    renewed: Callable[[], tuple[Mapping[str, str], str | None]] | None = field(default=None, repr=False)
    """Gives the headers and the proxy of the moment, where they may change while the process lives."""
    redirect_hosts: tuple[str, ...] = ()
    """Hosts to which negotiation may redirect, in addition to the hub's own; `*.example.com` is all below it."""
    skip_negotiation: bool = False

    def now(self) -> Transport:
        """Return it with the headers and the proxy of this moment."""
        if self.renewed is None:
            return self
        headers, proxy = self.renewed()
        return replace(self, headers=headers, proxy=proxy)

    def may_go_to(self, host: str) -> bool:
        """Return whether `redirect_hosts` name a host."""
        host = host.lower()
        return any(host == one or (one.startswith("*.") and host.endswith(one[1:])) for one in self.redirect_hosts)


@asynccontextmanager
async def stage(name: str, seconds: float, secrets: Iterable[str]) -> AsyncIterator[None]:
    """Do one stage of a connect within `seconds`; raises ConnectFailed or Unauthorized for whatever goes wrong.

    The library's error is not chained: its text may hold a URL with a token.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise ConnectFailed(f"{name}: no answer within {seconds:g} s", reason="timeout") from None
    except aiohttp.ClientHttpProxyError as error:
        problem = f"{name}: hub.proxy answered {error.status} {shown(error.message, secrets)}"
        raise ConnectFailed(problem, reason="proxy") from None
    except aiohttp.ClientProxyConnectionError as error:
        raise ConnectFailed(f"{name}: hub.proxy: {shown(error_message(error), secrets)}", reason="proxy") from None
    except aiohttp.WSServerHandshakeError as error:
        if error.status != _SWITCHING:
            raise refusal(name, error.status, error.headers or {}, secrets) from None
        raise ConnectFailed(f"{name}: not a WebSocket: {error.message}", reason="protocol") from None
    except (OSError, aiohttp.ClientError, ValueError) as error:
        raise ConnectFailed(f"{name}: {shown(error_message(error), secrets)}", reason="unreachable") from None


async def check_upgrade(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request, as a middleware of the hub's session, and judge the answer to an upgrade before aiohttp does.

    aiohttp would follow a redirect to any origin, with the session's headers, and without TLS where the new place has
    none. So a redirect raises WSServerHandshakeError, like every other answer that is not 101.
    """
    response = await send(request)
    if "Upgrade" not in request.headers:
        return response
    if response.status in _REDIRECTS:
        response.close()
        raise aiohttp.WSServerHandshakeError(
            response.request_info, (), status=response.status, headers=response.headers
        )
    listed = [one.strip().lower() for one in response.headers.get("Connection", "").split(",")]
    if len(listed) > 1 and "upgrade" in listed:
        # `Connection: keep-alive, Upgrade` is right (RFC 9110, 7.6.1); aiohttp before 3.15 takes `upgrade` alone.
        mended = response.headers.copy()
        mended["Connection"] = "upgrade"
        response._cache["headers"] = type(response.headers)(mended)  # noqa: SLF001 - there is no other way
    return response


def _place(url: str, secrets: Iterable[str]) -> str:
    """Return where a URL leads, without a user, a password or a query, which may be secrets."""
    try:
        parts = urlsplit(url)
        place = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:  # brackets that do not match
        place = ""
    return shown(place, secrets) or "nowhere"


def refusal(name: str, status: int, headers: Mapping[str, str], secrets: Iterable[str] = ()) -> ConnectFailed:
    """Return the error for an HTTP status that is not the one hoped for."""
    message = f"{name}: the hub answered {status}"
    if status in _REDIRECTS:
        message += f" and points to {_place(headers.get('Location', ''), secrets)}; if it is there now, mend hub.url"
    if status == _NOT_FOUND and name == "negotiate":
        message += "; hub.url is the part of the address before /hubs/event/v1"
    retry_after = read_retry_after(headers)
    if status in _REFUSALS:
        challenge = headers.get("WWW-Authenticate")
        detail = f"{message} ({shown(challenge, secrets)})" if challenge else message
        return Unauthorized(detail, reason="unauthorized", retry_after=retry_after)
    return ConnectFailed(message, reason=f"http-{status}", retry_after=retry_after)


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After, seconds or an HTTP date, as seconds up to MAX_RETRY_AFTER; what is neither is no advice.

    A date counts from the answer's own Date, so that a clock that is off does no harm.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return MAX_RETRY_AFTER if len(value) > len("1000") else min(float(value), MAX_RETRY_AFTER)
    when = _date(value)
    if when is None:
        return None
    now = _date(headers.get("Date", "")) or datetime.now(UTC)
    return min(max((when - now).total_seconds(), 0.0), MAX_RETRY_AFTER)


def _date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError, TypeError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def shown(text: str, secrets: Iterable[str] = ()) -> str:
    """Return foreign words fit for a log: without the secrets, printable, not longer than a person reads."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _MIN_SECRET:
            text = text.replace(secret, "…").replace(quote(secret, safe=""), "…")
    text = printable(text[: _MAX_SHOWN + 1].translate(_SPACES))
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def tcp_under(socket: aiohttp.ClientWebSocketResponse[bool]) -> asyncio.BaseTransport | None:
    """Return what lies under an open WebSocket; None if it is gone already."""
    connection = socket._response.connection  # noqa: SLF001 - aiohttp gives no other way to it
    return connection.transport if connection is not None else None


def abort(socket: aiohttp.ClientWebSocketResponse[bool], tcp: asyncio.BaseTransport | None) -> None:
    """Drop the connection at once: closing in good order would wait until the peer has taken what was sent."""
    socket._response.close()  # noqa: SLF001 - lets the connector forget it
    if isinstance(tcp, asyncio.WriteTransport):
        tcp.abort()
    forget_frames(socket.exception())  # aiohttp keeps it
