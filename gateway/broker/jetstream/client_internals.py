"""The places where nats-py is used below its public surface, each with the reason.

Checked with nats-py 2.14 to 2.16; the contract suite fails when one of the names moves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from nats.aio.client import PING_PROTO, Client

from gateway.broker.traffic import Traffic, extra, traffic


class PatchedClient(Client):
    """A client that reads why a login is refused, and that reports its end also while bytes waited to be written."""

    async def _process_connect_init(self) -> None:
        """Write the login and the ping behind it in one piece.

        nats-py writes them one after the other. A server that refuses the login hangs up at once: then the second
        write fails, and asyncio drops the server's words unread (measured beside three busy processes: 32 of 300).
        """
        transport: Any = self._transport
        write, held = transport.write, bytearray()

        def write_with_ping(frames: bytes) -> None:
            held.extend(frames)
            if held.endswith(PING_PROTO):
                transport.write = write
                write(bytes(held))

        transport.write = write_with_ping
        await super()._process_connect_init()

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: FBT001, FBT002 - nats-py's
        """Drop the bytes that wait: to write them to a socket that is gone raises, and then no callback is called.

        The waiting callers learned of the loss only once a ping had found no answer, 2 to 4 s later (measured).
        """
        self._pending.clear()
        self._pending_data_size = 0
        await super()._close(status, do_cbs)

    async def _process_pong(self) -> None:
        """Take the answer to a ping that no caller awaits any more: nats-py ends the connection over it.

        A caller that gave up on a flush leaves its future behind, cancelled, and to set a result of that raises.
        """
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        """Read the headers of a message, whatever their publisher wrote: nats-py ends the connection over some.

        A stored message comes again after each reconnect. So one with such headers, in a stream that each replica
        follows, would keep all of them from the broker.
        """
        try:
            found: dict[str, str] | None = await super()._process_headers(headers)
        except (ValueError, IndexError):  # a status that is not text, or an invalid first line
            lines = (line.partition(b":") for line in (headers or b"").split(b"\r\n"))
            return {name.decode("ascii", "replace"): value.strip().decode(errors="replace") for name, _, value in lines}
        return found


async def bounded_call(
    call: Coroutine[Any, Any, object], seconds: float, lives: Callable[[], bool] = lambda: False
) -> None:
    """Run one of nats-py's own waits with a limit, in a task of its own; raises TimeoutError.

    Where `lives`, asked after `seconds`, reports a sign of life in them, it goes on for as many.

    It waits with `asyncio.wait_for`, which in Python 3.11 loses a cancellation that comes together with the result: the
    task that was to end went on for ever, about once in a hundred closed connections.
    """
    task = asyncio.create_task(call)
    try:
        while not (done := (await asyncio.wait({task}, timeout=seconds))[0]) and lives():
            pass
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)
        if not task.cancelled():
            task.exception()  # retrieved: where this was cancelled, no other code would
    if not done:
        raise TimeoutError
    await task


async def write(client: Client, frames: bytes) -> None:
    """Write `frames` to the socket in one go, and wait while its buffer is full.

    `Client.publish` costs 19 µs a message, joined frames 8 µs. It also leaves nothing in the client's own
    pending list, which nats-py writes to whatever connection comes next.
    """
    transport = client._transport  # noqa: SLF001
    if transport is None:
        raise ConnectionError("never connected")
    transport.write(frames)
    await transport.drain()  # type: ignore[no-untyped-call]


def traffic_of(client: Client) -> Traffic | None:
    """Return what went over a connection, as the kernel counts it; None on other systems than Linux."""
    writer: Any = getattr(client._transport, "_io_writer", None)  # noqa: SLF001 - not on WebSockets
    return None if writer is None else traffic(writer)


def abort(client: Client) -> None:
    """Drop the socket without flushing it, and end the subscriptions' tasks that an unfinished close left.

    `Client.close` waits until everything written was sent, which a frozen server never lets happen.
    """
    for subscription in list(client._subs.values()):  # noqa: SLF001
        task = getattr(subscription, "_wait_for_msgs_task", None)
        if task is not None:
            task.cancel()
    writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001 - None before a connect; not on WebSockets
    if writer is None:
        return
    socket = extra(writer, "socket")
    if socket is not None and socket.fileno() != -1:  # asyncio's abort raises AttributeError on a closed one
        writer.transport.abort()


def silence_library_logs() -> None:
    """Keep asyncio from logging the end of each TLS connection: nats-py does not mark it as one."""
    logging.getLogger("asyncio").addFilter(_is_significant)


def _is_significant(record: logging.LogRecord) -> bool:
    return "eof_received() has no effect when using ssl" not in str(record.msg)


def encrypted(client: Client) -> bool:
    """Return whether the connection is over TLS: nats-py goes on in plain text where the server offers none."""
    writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001
    return writer is None or extra(writer, "ssl_object") is not None


def server_info(client: Client) -> dict[str, Any]:
    """Return what the server last told of itself: `server_name`, `jetstream` where it has that, `cluster`."""
    return client._server_info  # noqa: SLF001 - see above
