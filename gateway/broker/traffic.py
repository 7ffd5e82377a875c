"""The bytes sent over a TCP connection, as the kernel counts them: bytes that the peer takes are a sign of life."""

from __future__ import annotations

import array
import asyncio
import fcntl
import socket
import struct
import sys
import termios
from contextlib import suppress
from socket import IPPROTO_TCP
from typing import Any, Final, NamedTuple

_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
"""None on systems that do not report it."""
_BYTES_ACKED: Final = 120
_INFO_BYTES: Final = 136
"""Where Linux's `struct tcp_info` has tcpi_bytes_acked, which tcpi_bytes_received follows, and where that ends."""


class Traffic(NamedTuple):
    """The bytes of a connection so far."""

    taken: int
    """Sent, and taken by the peer's machine."""
    waiting: int
    """Written, and not taken yet."""
    received: int


def traffic(writer: asyncio.StreamWriter) -> Traffic | None:
    """Return what went over a connection; None where that is not known, and on other systems than Linux."""
    own = extra(writer, "socket")
    if own is None or own.fileno() == -1 or _TCP_INFO is None or sys.platform != "linux":
        return None
    in_socket = array.array("i", [0])
    try:
        fcntl.ioctl(own.fileno(), termios.TIOCOUTQ, in_socket)
        info = own.getsockopt(IPPROTO_TCP, _TCP_INFO, _INFO_BYTES)
    except OSError:
        return None
    if len(info) < _INFO_BYTES:  # a kernel before 4.1
        return None
    taken, received = struct.unpack_from("QQ", info, _BYTES_ACKED)
    return Traffic(taken, int(writer.transport.get_write_buffer_size()) + in_socket[0], received)


def drop(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once, without what waits to be sent.

    After an ordinary end the kernel goes on sending that: over a slow line the next try waits behind it.
    """
    own = extra(writer, "socket")
    if own is None or own.fileno() == -1:  # asyncio's abort raises AttributeError on a closed one
        return
    with suppress(OSError):
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def extra(writer: asyncio.StreamWriter, name: str) -> Any:  # noqa: ANN401 - as asyncio has it
    """Return what asyncio has of a connection; None after the end of a TLS connection, where it raises."""
    try:
        return writer.get_extra_info(name)
    except AttributeError:
        return None
