"""Makes a connection to the hub: negotiate, upgrade, handshake, each with a limit of time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import aiohttp

from gateway.errors import ConnectFailed, ProtocolError
from gateway.signalr import protocol
from gateway.signalr.connection import HubConnection
from gateway.signalr.frames import BINARY, CLOSE_TIMEOUT_S, PING, PONG, TEXT, Socket, size_of
from gateway.signalr.negotiation import Route, negotiate
from gateway.signalr.receipt import Receipt
from gateway.signalr.transport import Transport, abort, shown, stage, tcp_under

Matched = Callable[[str], None]
"""Called with the name of a stage, `negotiate`, `upgrade` or `handshake`, when it went well."""
_MESSAGE_ROOM: Final = 1024 * 1024
"""Bytes by which a WebSocket message may be longer than a record: it may hold several."""


async def connect(transport: Transport, url: str, key: str, passed: Matched = lambda _: None) -> HubConnection:
    """Connect to the hub at `url` with the bearer `key`; `passed` is called for each completed stage.

    Raises Unauthorized on 401 and 403, else ConnectFailed, which names the stage, and the hub's Retry-After. Whatever
    happens, cancellation at any step included, nothing is left open.
    """
    transport = transport.now()
    if transport.skip_negotiation:
        route = Route(url, key, transport.headers)
    else:
        route = await negotiate(transport, url, key)
        passed("negotiate")
    socket = await _upgrade(transport, route)
    passed("upgrade")
    tcp = tcp_under(socket)
    receipt = Receipt(socket)
    try:
        reader, early = await _shake_hands(transport, socket, receipt, route.secrets)
        passed("handshake")
    except BaseException:
        abort(socket, tcp)
        receipt.end()
        raise
    return HubConnection(transport, socket, reader, tcp=tcp, receipt=receipt, early=early, secrets=route.secrets)


async def _upgrade(transport: Transport, route: Route) -> Socket:
    async with stage("upgrade", transport.connect_timeout, route.secrets):
        return await transport.http.ws_connect(
            route.websocket_url(),
            headers=route.headers(),
            proxy=transport.proxy,
            compress=0,
            autoping=False,  # its pong would wait for room to write
            decode_text=False,  # money passes as the bytes that came; a record's bad UTF-8 spoils only itself
            max_msg_size=transport.max_record + _MESSAGE_ROOM,
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
        )


async def _shake_hands(
    transport: Transport, socket: Socket, receipt: Receipt, secrets: Iterable[str]
) -> tuple[protocol.RecordReader, Iterable[bytes]]:
    reader = protocol.RecordReader(transport.max_record)
    first: bytes | None = None
    async with stage("handshake", transport.connect_timeout, secrets):
        await socket.send_frame(protocol.encode_handshake_request(), TEXT)
        try:
            while first is None:
                message = await socket.receive()
                receipt.framed(asyncio.get_running_loop().time(), size_of(message))
                if message.type is PING:
                    await socket.pong(message.data)
                if message.type is PING or message.type is PONG:
                    continue
                if message.type is not TEXT and message.type is not BINARY:
                    raise ConnectFailed("handshake: the hub closed the connection", reason="handshake")
                records = iter(reader.cut(message.data))
                first = next(records, None)
            error = protocol.decode_handshake_response(first).error
        except ProtocolError as problem:
            error = str(problem)
    if error:  # an empty text is none, as it is to Microsoft's clients
        raise ConnectFailed(f"handshake: {shown(error, secrets)}", reason="handshake")
    return reader, records
