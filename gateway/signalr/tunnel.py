"""The connection to the hub through a proxy: always a tunnel (CONNECT), also to a hub without TLS.

RFC 6455, 4.1 requires one for each WebSocket. aiohttp makes one for TLS alone, and else requests the URL from the
proxy.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler


class TunnelledRequest(aiohttp.ClientRequest):
    """A request that goes through a proxy's tunnel where there is a proxy; the `request_class` of a session."""

    def is_ssl(self) -> bool:
        """Return what aiohttp makes a tunnel by."""
        return super().is_ssl() or self.proxy is not None


class TunnellingConnector(aiohttp.TCPConnector):
    """Makes the connections of such requests; what goes to an `http` URL goes through its tunnel without TLS."""

    async def _start_tls_connection(
        self,
        underlying_transport: asyncio.Transport,
        req: aiohttp.ClientRequest,
        *args: Any,  # noqa: ANN401 - aiohttp's
        **options: Any,  # noqa: ANN401 - aiohttp's
    ) -> tuple[asyncio.BaseTransport, ResponseHandler]:
        """Go on in a tunnel that stands."""
        if req.url.scheme in {"https", "wss"}:
            return await super()._start_tls_connection(underlying_transport, req, *args, **options)
        protocol: ResponseHandler = self._factory()
        underlying_transport.set_protocol(protocol)
        protocol.connection_made(underlying_transport)
        return underlying_transport, protocol
