"""A hub that is never the bottleneck: it prebuilds WebSocket frames and writes them as fast as TCP takes them.

It speaks just enough SignalR for the gateway and for signalrcore: negotiate, handshake, and answers to the hub's
methods. The simulator has all the faults and checks; this has none, since it must cost next to nothing.

    python -m benchmarks.source

prints its URL. Besides the hub it serves: POST /load (a JSON of `Load`) makes events and forgets what was before,
POST /begin starts the pushes, GET /told gives when what was sent, by the system's monotonic clock, and how many events
were paged.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import uvloop

from gateway.events.catalogue import CATALOGUE
from gateway.simulator.events import CALLBACKS, EventSource
from gateway.simulator.wire import TICKS, Form, Style

STRATEGIES: Final = (101, 102, 103)
_CHUNK: Final = 256 * 1024
"""Bytes that are written at once."""
_DAY: Final = 24 * 3600 * TICKS
_SUBSCRIBED: Final = b'{"successfulStrategies":[101,102,103],"failedStrategies":[]}'
_CLOSE, _PING, _PONG = 8, 9, 10


@dataclass(frozen=True, slots=True)
class Load:
    """What the hub is to have."""

    events: int
    records: int = 1
    """Records in one WebSocket message."""
    rate: float = 0
    """Events a second; 0 floods."""
    history: bool = False
    """All events are there from the beginning, a day old; none is pushed."""
    kind: str | None = None
    """Events of this kind alone, `order-update`; otherwise all 17 as they come from the simulator."""
    page_seconds: float = 0
    """How long the hub takes for a page, as one does that reads a database."""


class Hub:
    """The events of one load, and how far they are pushed."""

    def __init__(self) -> None:
        self.load(Load(0))

    def load(self, load: Load) -> None:
        """Make the events and their frames."""
        self.now = load
        self.begun = asyncio.Event()
        self.pushed = load.events if load.history else 0
        self.sent: list[float] = []
        self.first_page: float | None = None
        self.paged = 0
        source = EventSource(1, "bench", STRATEGIES)
        style = Style(Form.CAMEL_INT)
        only = None if load.kind is None else (CALLBACKS.index(CATALOGUE[load.kind].callback),)
        began = time.time_ns() // 100 - (_DAY if load.history else 0)
        made = [source.make(sequence, style, began + sequence, only) for sequence in range(1, load.events + 1)]
        self.events = [(CALLBACKS[template.callback].encode(), payload) for template, payload in made]
        records = [b'{"type":1,"target":"%b","arguments":[%b]}\x1e' % event for event in self.events]
        self.frames = [
            frame(b"".join(records[first : first + load.records])) for first in range(0, load.events, load.records)
        ]

    def answer(self, call: dict[str, Any]) -> bytes:
        """Return the completion of a call, in a frame."""
        argument = call["arguments"][0]
        match call["target"]:
            case "GetLatestEventSeqId":
                moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                data = b'{"latestEventSeqId":%d,"snapshotTime":"%b"}' % (self.pushed, moment.encode())
            case "GetEventsSince":
                self.first_page = self.first_page or time.monotonic()
                data = self._page(int(argument["ContinuationToken"] or argument["SinceEventSeqId"]), argument["Limit"])
            case _:
                data = _SUBSCRIBED
        envelope = b'{"status":0,"message":null,"error":null,"data":%b}' % data
        return frame(b'{"type":3,"invocationId":"%b","result":%b}\x1e' % (call["invocationId"].encode(), envelope))

    def _page(self, since: int, limit: int) -> bytes:
        last = min(since + limit, self.pushed)
        self.paged += max(0, last - since)
        entries = [
            b'{"eventType":"%b","payload":%b}' % (callback.removeprefix(b"On"), payload)
            for callback, payload in self.events[since:last]
        ]
        token = b'"%d"' % last if last < self.pushed else b"null"
        return b'{"events":[%b],"continuationToken":%b}' % (b",".join(entries), token)

    async def push(self, writer: asyncio.StreamWriter) -> None:
        """Push all events, as fast as they are taken or at the rate asked for."""
        await self.begun.wait()
        load = self.now
        if load.rate:
            began = time.monotonic()
            for number, one in enumerate(self.frames):
                await asyncio.sleep(began + number * load.records / load.rate - time.monotonic())
                self.sent.append(time.monotonic())
                self.pushed += load.records
                writer.write(one)
            return
        several = max(1, _CHUNK // max(1, len(self.frames[0])))
        for first in range(0, len(self.frames), several):
            self.pushed = min(load.events, (first + several) * load.records)
            writer.write(b"".join(self.frames[first : first + several]))
            await writer.drain()


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """Return a WebSocket frame of a server."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read a client's frame: what kind it is, and what it holds."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
    elif size == 127:
        (size,) = struct.unpack("!Q", await reader.readexactly(8))
    mask = await reader.readexactly(4)
    masked = await reader.readexactly(size)
    return first & 0xF, bytes(byte ^ key for byte, key in zip(masked, itertools.cycle(mask), strict=False))


async def serve_socket(hub: Hub, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one SignalR connection."""
    rest, pushing = b"", None
    while True:
        opcode, payload = await read_frame(reader)
        if opcode == _CLOSE:
            break
        if opcode == _PING:
            writer.write(frame(payload, _PONG))
            continue
        *records, rest = (rest + payload).split(b"\x1e")
        for record in map(json.loads, records):
            if "protocol" in record:
                writer.write(frame(b"{}\x1e"))
            elif record["type"] == 1:
                if record["target"] == "GetEventsSince" and hub.now.page_seconds:
                    await asyncio.sleep(hub.now.page_seconds)
                writer.write(hub.answer(record))
                if record["target"] == "SubscribeToStrategies" and pushing is None and not hub.now.history:
                    pushing = asyncio.create_task(hub.push(writer))
    if pushing is not None:
        pushing.cancel()


async def serve(hub: Hub, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one TCP connection."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            path = head.split(" ")[1].partition("?")[0]
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            if "upgrade" in headers.get("connection", ""):
                writer.write(accepted(head))
                await serve_socket(hub, reader, writer)
                return
            answer = json.dumps(respond(hub, path, body)).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer)
            )
            writer.write(answer)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def accepted(head: str) -> bytes:
    """Answer an upgrade."""
    key = next(line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
    digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # noqa: S324 - RFC 6455
    lines = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    return lines.encode() + base64.b64encode(digest) + b"\r\n\r\n"


def respond(hub: Hub, path: str, body: bytes) -> dict[str, Any]:
    """Answer a plain request."""
    match path.rpartition("/")[2]:
        case "negotiate":
            transports = [{"transport": "WebSockets", "transferFormats": ["Text", "Binary"]}]
            return {
                "negotiateVersion": 1,
                "connectionId": "c",
                "connectionToken": "t",
                "availableTransports": transports,
            }
        case "load":
            hub.load(msgspec.json.decode(body, type=Load))
        case "begin":
            hub.begun.set()
        case "told":
            return {"first_page": hub.first_page, "sent": hub.sent, "paged": hub.paged}
    return {}


async def main() -> None:
    """Serve until the parent closes standard input."""
    hub = Hub()
    server = await asyncio.start_server(lambda reader, writer: serve(hub, reader, writer), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
