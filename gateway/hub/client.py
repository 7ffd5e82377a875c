"""The HTTP client for all connections to the hub, with certificates, headers and a proxy that may be renewed.

Their files are read again when they change, and hold for the next connection; see `gateway.reloaded`.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp

from gateway import __version__
from gateway.certificates import PemFiles, live_client_context
from gateway.errors import ConfigurationError
from gateway.redaction import shown_path
from gateway.reloaded import Reloaded
from gateway.settings.checks import check_proxy_url, is_header
from gateway.settings.sections import HubSettings
from gateway.signalr.transport import Transport, check_upgrade
from gateway.signalr.tunnel import TunnelledRequest, TunnellingConnector

_HEADERS_FILE: Final = "hub.headers_file"
_PROXY_FILE: Final = "hub.proxy_file"
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x1f\x7f]*?)[ \t]*")
"""A line of the file, as RFC 9110 allows headers."""


@asynccontextmanager
async def hub_http(settings: HubSettings) -> AsyncIterator[aiohttp.ClientSession]:
    """Return the HTTP client for all connections to the hub: one TLS context, no limit on connections.

    Raises ConfigurationError for an invalid CA file.
    """
    connector = TunnellingConnector(limit=0, ssl=_context(settings), ttl_dns_cache=30)
    async with aiohttp.ClientSession(
        connector=connector,
        request_class=TunnelledRequest,
        headers={"User-Agent": f"mesolive-gateway/{__version__}"},
        middlewares=(check_upgrade,),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),  # a shared jar would carry one account's affinity into another's
    ) as http:
        yield http


def transport_of(settings: HubSettings, http: aiohttp.ClientSession) -> Transport:
    """Return how connections to the hub are made; raises ConfigurationError for a file that cannot be used."""
    renewed = _renewed(settings)
    headers, proxy = renewed.now()
    return Transport(
        http=http,
        headers=headers,
        connect_timeout=settings.connect_timeout,
        call_timeout=settings.call_timeout,
        ping_interval=settings.ping_interval,
        silence_timeout=settings.silence_timeout,
        max_record=settings.max_record_bytes,
        proxy=proxy,
        redirect_hosts=tuple(settings.redirect_hosts),
        skip_negotiation=settings.skip_negotiation,
        renewed=renewed.now,
    )


def check_files(settings: HubSettings) -> None:
    """Look at the files that the settings name; raises ConfigurationError."""
    _context(settings)
    _renewed(settings)


def proxy_of(settings: HubSettings) -> str | None:
    """Return the URL of the proxy, which may hold a password; raises as `check_files`."""
    return _renewed(settings).now()[1]


def _context(settings: HubSettings) -> ssl.SSLContext:
    if settings.ca_file is None:
        return ssl.create_default_context()
    return live_client_context(PemFiles("hub.", ca_file=settings.ca_file))


def _renewed(settings: HubSettings) -> Reloaded[tuple[Mapping[str, str], str | None]]:
    """Return the headers and the proxy, by the settings and the files of this moment."""
    if settings.proxy is not None and settings.proxy_file is not None:
        raise ConfigurationError(_PROXY_FILE, "is set, and so is hub.proxy", "Take one of the two away.")
    paths = {_HEADERS_FILE: settings.headers_file, _PROXY_FILE: settings.proxy_file}
    files = {setting: path for setting, path in paths.items() if path is not None}
    given = {name: value.get_secret_value() for name, value in settings.headers.items()}
    proxy = None if settings.proxy is None else settings.proxy.get_secret_value()

    def make(content: Mapping[str, bytes]) -> tuple[Mapping[str, str], str | None]:
        headers, way = dict(given), proxy
        if _HEADERS_FILE in files:
            headers |= _read_headers(files[_HEADERS_FILE], content[_HEADERS_FILE], given)
        if _PROXY_FILE in files:
            way = _read_proxy(files[_PROXY_FILE], content[_PROXY_FILE])
        return headers, way

    return Reloaded("hub", files, make)


def _read_headers(path: Path, content: bytes, given: Mapping[str, str]) -> dict[str, str]:
    """Read headers; raises ConfigurationError, which never quotes the file: it holds secrets."""
    taken = {name.lower() for name in given}
    found: dict[str, str] = {}
    for number, line in enumerate(_text(_HEADERS_FILE, path, content).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        header = _HEADER.fullmatch(line)
        remedy = "Write lines `<name>: <value>`, each name once and not in hub.headers besides."
        if header is None or not is_header(header[1], header[2]):
            raise ConfigurationError(_HEADERS_FILE, f"line {number} of {shown_path(path)} is no header", remedy)
        if header[1].lower() in taken:
            raise ConfigurationError(_HEADERS_FILE, f"line {number} of {shown_path(path)} says a header again", remedy)
        taken.add(header[1].lower())
        found[header[1]] = header[2]
    return found


def _read_proxy(path: Path, content: bytes) -> str:
    """Read the URL of a proxy; raises ConfigurationError, which never quotes the file."""
    try:
        return check_proxy_url(_text(_PROXY_FILE, path, content).strip())
    except ValueError as error:
        problem = f"what {shown_path(path)} holds {error}"
        raise ConfigurationError(_PROXY_FILE, problem, "Write the URL into it, alone.") from None


def _text(setting: str, path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeError:
        raise ConfigurationError(setting, f"{shown_path(path)} is not UTF-8", "Write it as text.") from None
