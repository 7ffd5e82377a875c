"""The HTTP API of a replica, as the commands call it: one line of text for every failure."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import aiohttp

from gateway.cli.target import Target, no_url, of_tls
from gateway.errors import ConfigurationError, GatewayError
from gateway.http_errors import error_message

_LIMIT: Final = 30.0
"""Seconds for each answer."""
_PART: Final = 500
"""Items of one request."""
_LARGEST: Final = 32 * 1024 * 1024
"""Bytes of an answer: 500 accounts with errors and subscriptions of the greatest length take some less."""
_MOST: Final = 256 * 1024 * 1024
"""Bytes of all parts of a list."""
_SHOWN_CHARS: Final = 500
"""Letters of an answer that are shown."""
_WHERE: Final = "The control plane is where control.port has it, 8080 by default; probes and metrics are elsewhere."
_GOOD: Final = {200, 202}
_REDIRECTS: Final = range(300, 400)
_UNKNOWN_TOKEN: Final = 401
_NOT_FOUND: Final = 404
_INVALID: Final = 422

Query = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Api:
    """The API of one replica."""

    url: str
    http: aiohttp.ClientSession

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return the answer's JSON object.

        Each request has an id of its own, which is in the gateway's log, too; without tokens the gateway requires a
        header of this kind, since no web form can send one. Raises ConfigurationError for what another option would
        fix, GatewayError for every other answer.
        """
        return (await self._ask(method, path, query=query, body=body, headers=headers))[0]

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[dict[str, Any], int]:
        """Return likewise the answer's JSON object, and how many bytes it had."""
        sent = {"X-Request-Id": uuid4().hex, **(headers or {})}
        try:
            async with self.http.request(
                method, self.url + path, params=query, json=body, headers=sent, allow_redirects=False
            ) as answer:
                status = answer.status
                if status in _REDIRECTS:  # never followed: the token is for this place
                    raise GatewayError(f"{self.url} answers {status}, a redirect: name in --url where it leads")
                content = await _whole(answer.content, self.url)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise no_url(self.url) from error
        except aiohttp.ClientResponseError as error:  # of an answer that is no HTTP, which it quotes
            raise _no_control_plane(self.url, "what listens there does not speak HTTP") from error
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise of_tls(self.url, error) or _no_control_plane(self.url, error_message(error)) from error
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _no_control_plane(self.url, f"it answers {status}, and no JSON. {_WHERE}") from error
        if status in _GOOD and isinstance(document, dict):
            return document, len(content)
        message = str(document.get("detail") if isinstance(document, dict) else document)[:_SHOWN_CHARS].rstrip(".")
        if status == _UNKNOWN_TOKEN:
            remedy = "Name a file with a token that `gateway token` made and that control.tokens_file knows."
            raise ConfigurationError("--token-file", message, remedy)
        if status in {_INVALID, _NOT_FOUND} and isinstance(document, dict) and "type" in document:
            raise ConfigurationError("the request", message, "Ask for something that there is.")
        raise GatewayError(f"{self.url} answers {status}: {message}")

    async def items(self, path: str, query: Query) -> list[dict[str, Any]]:
        """Read all parts of a list."""
        found: list[dict[str, Any]] = []
        cursor, size = "", 0
        while True:
            more = [("limit", str(_PART)), *query, *([("cursor", cursor)] if cursor else [])]
            part, length = await self._ask("GET", path, query=more)
            next_ = part.get("next", 0)
            match part.get("items"):
                case list(items) if all(isinstance(one, dict) for one in items):
                    found += items
                case _:
                    raise _no_list(self.url, part)
            if not (next_ is None or (isinstance(next_, str) and next_ and items)):
                raise _no_list(self.url, part)
            size += length
            if next_ is None:
                return found
            if size > _MOST:
                raise _too_large(self.url, _MOST)
            cursor = next_


async def _whole(content: aiohttp.StreamReader, url: str) -> bytes:
    """Return the body of an answer; raises GatewayError where there is more than any answer has."""
    found = bytearray()
    async for piece in content.iter_any():
        found += piece
        if len(found) > _LARGEST:
            raise _too_large(url, _LARGEST)
    return bytes(found)


def _no_control_plane(url: str, reason: str) -> GatewayError:
    return GatewayError(f"{url} does not answer as a gateway's control plane: {reason}")


def _no_list(url: str, part: Mapping[str, Any]) -> GatewayError:
    return GatewayError(f"{url} does not answer as a gateway's control plane: {str(part)[:_SHOWN_CHARS]}")


def _too_large(url: str, limit: int) -> GatewayError:
    return GatewayError(f"{url} does not answer as a gateway's control plane: there are more than {limit} bytes")


def segment(name: str) -> str:
    """Return a part of a path; an argument may have bytes that are no UTF-8."""
    return quote(name, safe="", errors="surrogateescape")


@contextmanager
def as_promised(url: str) -> Iterator[None]:
    """Read an answer's members; raises GatewayError where they are not those of the API."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GatewayError(f"{url} does not answer as a gateway's control plane: {error!r}") from error


@asynccontextmanager
async def api_at(target: Target) -> AsyncIterator[Api]:
    """Yield the API of a replica; raises ConfigurationError for options that are wrong."""
    token = target.check()
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=_LIMIT)
    connector = aiohttp.TCPConnector(ssl=target.context() or True)
    # An answer may have any size: the client neither requests compression nor unpacks it.
    headers["Accept-Encoding"] = "identity"
    async with aiohttp.ClientSession(
        headers=headers, timeout=timeout, connector=connector, auto_decompress=False
    ) as http:
        yield Api(target.url.rstrip("/"), http)
