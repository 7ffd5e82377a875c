"""The TLS handshake of one connection, after which its protocol takes over.

TLS is asyncio's own here, also on uvloop: both drop the alert with the reason of a failed handshake, and here it is
sent.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import Final

_SHUTDOWN_S: Final = 2
"""Seconds that a client gets to end TLS in good order."""


async def shake_hands(
    peer: socket.socket, tls: ssl.SSLContext, create: Callable[[], asyncio.Protocol], seconds: float
) -> None:
    """Begin TLS with a peer, within `seconds`; a peer that speaks something else, or nothing, is left."""
    loop = asyncio.get_running_loop()
    shaken: asyncio.Future[None] = loop.create_future()
    secured = _Secured(
        loop,
        create(),
        tls,
        shaken,
        server_side=True,
        ssl_handshake_timeout=seconds,  # type: ignore[arg-type]  # typeshed wants whole ones
        ssl_shutdown_timeout=_SHUTDOWN_S,
    )
    try:
        transport, _ = await loop.connect_accepted_socket(lambda: secured, peer)
    except OSError:
        peer.close()
        return
    try:
        await shaken
    except OSError:  # TLS was refused by either side, or the peer left: no caller waits for it
        pass
    except asyncio.CancelledError:
        transport.abort()
        raise


class _Secured(SSLProtocol):
    def _on_handshake_complete(self, handshake_exc: BaseException | None) -> None:
        if handshake_exc is not None:  # the alert is still to be sent: it has the reason for the client
            self._process_outgoing()  # type: ignore[attr-defined]
        super()._on_handshake_complete(handshake_exc)
