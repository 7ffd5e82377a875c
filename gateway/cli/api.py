"""The HTTP API of a replica, as the commands ask it: one line of words for whatever goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import uuid4

import aiohttp
import typer

from gateway.cli.target import Target, no_url, of_tls
from gateway.errors import ConfigurationError, GatewayError
from gateway.redaction import shown_path
from gateway.small_files import SECRET_BYTES, UnreadableFile, read_small_text

_LIMIT: Final = 30.0
"""Seconds for each answer."""
_PART: Final = 500
"""Items that are asked for at a time."""
_GOOD: Final = {200, 202}
_REDIRECTS: Final = range(300, 400)
_UNKNOWN_TOKEN: Final = 401
_NOT_FOUND: Final = 404
_INVALID: Final = 422

JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON, one item a line, for scripts.")]
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

        Each request has an id of its own, which is in the gateway's log, too; without tokens the gateway asks for a
        header of this kind, since no web form can send one.
        Raises ConfigurationError for what another option would mend, GatewayError for every other answer.
        """
        sent = {"X-Request-Id": uuid4().hex, **(headers or {})}
        try:
            async with self.http.request(
                method, self.url + path, params=query, json=body, headers=sent, allow_redirects=False
            ) as answer:
                status = answer.status
                if status in _REDIRECTS:  # never followed: the token is for this place
                    raise GatewayError(f"{self.url} answers {status}, a redirect: name in --url where it leads")
                said = await answer.json(content_type=None)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise no_url(self.url) from error
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
            words = f"{self.url} does not answer as a gateway's control plane: {str(error) or 'timeout'}"
            raise of_tls(self.url, error) or GatewayError(words) from error
        if status in _GOOD and isinstance(said, dict):
            return said
        words = str(said.get("detail") if isinstance(said, dict) else said).rstrip(".")
        if status == _UNKNOWN_TOKEN:
            remedy = "Name a file with a token that `gateway token` made and that control.tokens_file knows."
            raise ConfigurationError("--token-file", words, remedy)
        if status in {_INVALID, _NOT_FOUND} and isinstance(said, dict) and "type" in said:
            raise ConfigurationError("the request", words, "Ask for something that there is.")
        raise GatewayError(f"{self.url} answers {status}: {words}")

    async def items(self, path: str, query: Query) -> list[dict[str, Any]]:
        """Read all parts of a list."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            more = [("limit", str(_PART)), *query, *([("cursor", cursor)] if cursor is not None else [])]
            part = await self.ask("GET", path, query=more)
            if not isinstance(part.get("items"), list):
                raise GatewayError(f"{self.url} does not answer as a gateway's control plane: {str(part)[:200]}")
            found += part["items"]
            with as_promised(self.url):
                cursor = part["next"]
            if cursor is None:
                return found


@contextmanager
def as_promised(url: str) -> Iterator[None]:
    """Read an answer's members; raises GatewayError where they are not those of the API."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GatewayError(f"{url} does not answer as a gateway's control plane: {error!r}") from error


@asynccontextmanager
async def api_at(target: Target) -> AsyncIterator[Api]:
    """Give the API of a replica; raises ConfigurationError for options that are wrong."""
    headers = _headers(target.token_file)
    target.check()
    timeout = aiohttp.ClientTimeout(total=_LIMIT)
    connector = aiohttp.TCPConnector(ssl=target.context() or True)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as http:
        yield Api(target.url.rstrip("/"), http)


def _headers(token_file: Path | None) -> dict[str, str]:
    if token_file is None:
        return {}
    try:
        token = read_small_text(token_file, SECRET_BYTES).strip()
    except UnreadableFile as error:
        raise ConfigurationError("--token-file", f"{shown_path(token_file)} {error.problem}", error.remedy) from None
    if not token or not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigurationError("--token-file", f"{token_file} holds no token", "Write the token into it, alone.")
    return {"Authorization": f"Bearer {token}"}
