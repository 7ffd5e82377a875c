"""The checks of single settings, beyond their types; each raises ValueError, with a text that follows the name."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Final, get_args
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from gateway.addresses import networks
from gateway.enums import PUBLISHED
from gateway.redaction import quoted
from gateway.settings.file import read_json

_HOST_PATTERN: Final = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*")
_NOT_OF_URLS: Final = re.compile(r"[\x00-\x20\x7f]")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_OF_VALUES: Final = re.compile(r"[\x00-\x1f\x7f]")
_FRAMING: Final = frozenset({"connection", "content-length", "te", "trailer", "transfer-encoding", "upgrade"})
_HOST: Final = re.compile(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:.]+")


def check_kind(value: object, annotation: object) -> object:
    """Return a value that may be of a field's type; raises ValueError where pydantic would take it for another.

    It reads `true` as the number 1, which is a retention of one second, and an empty text as the working directory,
    whose files, whatever is in them, would go to the hub as API keys.
    """
    if isinstance(value, bool) and annotation is not bool:
        raise ValueError("should not be true or false")
    if isinstance(value, str) and not value.strip() and Path in (annotation, *get_args(annotation)):
        raise ValueError("is empty, and should be a path; leave it out, or write null, for none")
    return value


def _parts_of(url: str, example: str) -> SplitResult:
    """Return the parts of an http or https URL; raises ValueError, which does not quote it: it may hold a password."""
    try:
        parts = urlsplit(url)  # it passes over line breaks and tabs, also within a name
        is_web = parts.scheme in {"http", "https"} and _NOT_OF_URLS.search(url) is None
        if is_web and _HOST.fullmatch(parts.hostname or "") and parts.port != 0:
            return parts
    except ValueError:  # brackets that do not match, or an invalid port
        pass
    raise ValueError(f"is no http or https URL; write it as {example}")


def check_hub_url(url: str) -> str:
    """Return the hub's URL without `/hubs/event/v1`; raises ValueError."""
    return _check_url(url, "https://api.example.com", "/hubs/event/v1", "keys belong into accounts.directory")


def check_proxy(url: SecretStr) -> SecretStr:
    """Return the URL of a proxy, without spaces around it; raises ValueError, which does not quote it."""
    return SecretStr(check_proxy_url(url.get_secret_value()))


def check_proxy_url(url: str) -> str:
    """Return the URL of a proxy, without spaces around it; raises ValueError."""
    example, url = "http://proxy.example.com:3128", url.strip()
    parts = _parts_of(url, example)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"must not have a path, a query or a fragment; write it as {example}")
    return url


def check_hosts(hosts: list[str]) -> list[str]:
    """Return host names in lower case; raises ValueError for an invalid one."""
    for host in hosts:
        if not _HOST_PATTERN.fullmatch(host):
            raise ValueError(
                f"{quoted(host)} is no host name; write hub.example.com, or *.example.com for all below it"
            )
    return [host.lower() for host in hosts]


def check_networks(texts: list[str]) -> list[str]:
    """Return addresses and networks as they are; raises ValueError for an invalid one."""
    for text in texts:
        try:
            networks([text])
        except ValueError as error:
            raise ValueError(f"{quoted(text)} {error}") from None
    return texts


def check_collector_url(url: str) -> str:
    """Return a collector's URL without `/v1/traces`; raises ValueError."""
    return _check_url(url, "http://collector:4318", "/v1/traces", "they belong into tracing.headers_file")


def _check_url(url: str, example: str, path: str, secrets: str) -> str:
    """Return the base of a URL, without the `path` that is known; raises ValueError."""
    url = url.strip()  # as of a variable that was made from a file with a line break at its end
    parts = _parts_of(url, f"{example}, without {path}")
    if "?" in url or "#" in url:  # an empty one too: what is added to the URL would belong to it
        raise ValueError("must not have a query or a fragment")
    if "@" in parts.netloc:
        raise ValueError(f"must not hold credentials: {secrets}")
    return url.rstrip("/").removesuffix(path)


def check_enums(enums: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return names of enums as they are; raises ValueError for an unknown enum, or an empty or repeated name."""
    for enum, names in enums.items():
        if enum not in PUBLISHED:
            near = difflib.get_close_matches(enum, PUBLISHED, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PUBLISHED)}"
            raise ValueError(f"{quoted(enum)} is no enum of the hub; {hint}")
        twice = next((name for place, name in enumerate(names) if name.lower() in map(str.lower, names[:place])), None)
        if twice is not None:
            raise ValueError(f"the enum {enum} has the name {quoted(twice)} twice; each number has a name of its own")
        if not all(names):
            raise ValueError(f"the enum {enum} has an empty name; a number without a known name ends the list")
    return enums


def is_header(name: str, value: str) -> bool:
    """Return whether RFC 9110 allows a header, and the gateway does not frame its requests by it."""
    is_framing = name.lower() in _FRAMING or name.lower().startswith("sec-websocket-")
    return _NAME.fullmatch(name) is not None and _NOT_OF_VALUES.search(value) is None and not is_framing


def check_headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    """Return headers as they are; raises ValueError, which quotes none of them: they hold secrets."""
    names: set[str] = set()
    for place, (name, value) in enumerate(headers.items(), 1):
        if not is_header(name, value.get_secret_value()):
            raise ValueError(f"header {place} is none that a request to the hub can have; write `X-Key: …`")
        if name.lower() in names:
            raise ValueError(f"header {place} has the name of one before it, but for the case of its letters")
        names.add(name.lower())
    return headers


def read_list(value: object) -> object:
    """Return the list in an environment variable: `a,b`, or a JSON list."""
    if not isinstance(value, str):
        return value
    return read_json(value) if value.lstrip().startswith("[") else [part.strip() for part in value.split(",")]
