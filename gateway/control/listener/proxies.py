"""The caller behind proxies of the control plane: X-Forwarded-For, as far as it can be believed.

Each proxy appends the address of its caller to the header, so everything before a trusted proxy's entry is a claim of
the caller's. X-Forwarded-Host and -Proto are not read: nothing here depends on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.addresses import Network, address_of, networks

_HEADER: Final = b"x-forwarded-for"
_PORT: Final = re.compile(r"(\d+\.\d+\.\d+\.\d+):\d+|\[([0-9A-Fa-f:.]+)\](?::\d+)?")
"""An address as some proxies write it: with a port, or in brackets."""


class TrustedProxies:
    """Lets `app` see the address of the caller, instead of that of a trusted proxy."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        """`trusted` are addresses and networks; only their entries are believed."""
        self._app = app
        self._trusted = networks(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        client = scope.get("client")
        if self._trusted and client is not None and _is_among(client[0], self._trusted):
            hops = _hops(value for name, value in scope["headers"] if name == _HEADER)
            scope["client"] = (_caller(client[0], hops, self._trusted), 0)
        await self._app(scope, receive, send)


def _caller(peer: str, hops: Iterator[str], trusted: Sequence[Network]) -> str:
    """Return the last address that no trusted proxy has; where one has appended nothing usable, its own."""
    caller = peer
    for hop in hops:
        address = address_of(hop)
        if address is None:
            return caller
        caller = str(address)
        if not _is_among(caller, trusted):
            return caller
    return caller


def _hops(values: Iterable[bytes]) -> Iterator[str]:
    """Yield the addresses from the last to the first; several headers are one list."""
    for value in reversed(list(values)):
        for part in reversed(value.decode("latin-1").split(",")):
            hop = part.strip()
            match = _PORT.fullmatch(hop)
            yield (match[1] or match[2]) if match is not None else hop


def _is_among(host: str, trusted: Sequence[Network]) -> bool:
    address = address_of(host)
    return address is not None and any(address in network for network in trusted)
