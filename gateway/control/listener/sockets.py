"""The sockets of the listeners: the gateway binds them, and a process of its own answers on each.

They stand apart from the server, which the gateway's own process has no use for: it would import uvicorn for nothing.
"""

from __future__ import annotations

import socket
from typing import Final

from gateway.errors import ConfigurationError

BACKLOG: Final = 256
"""Connections that wait to be accepted."""
_BUFFER: Final = 32 * 1024
"""Bytes that the system buffers for a connection, each way; Linux takes twice that. Requests here are small."""


def bind(section: str, host: str, port: int) -> socket.socket:
    """Take the port, without answering yet; raises ConfigurationError that names the setting of `section`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        remedy = "Name an address of this machine, or 0.0.0.0 for all."
        reason = getattr(error, "strerror", None) or "it is no name"
        raise ConfigurationError(f"{section}.host", f"{host!r} is no address ({reason})", remedy) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            listener.setsockopt(socket.SOL_SOCKET, buffer, _BUFFER)
        listener.bind(address)
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        problem = f"{host}:{port} cannot be listened on ({reason})"
        remedy = f"Choose a port that is free, or 0 for any, and an address of this machine in {section}.host."
        raise ConfigurationError(f"{section}.port", problem, remedy) from error
    listener.setblocking(False)  # noqa: FBT003 - the library's name for it
    return listener


def address_of(listener: socket.socket) -> tuple[str, int]:
    """Return the address that it listens on."""
    host, port = listener.getsockname()[:2]
    return str(host), int(port)


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Return a URL to reach it from this machine."""
    host, port = address_of(listener)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - it is compared, not bound
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
