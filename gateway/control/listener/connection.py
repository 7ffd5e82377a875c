"""One connection of a listener: uvicorn's HTTP/1.1 with limits on what an unknown peer may cost.

`Parser` refuses an invalid request before anything is routed. `HttpConnection` limits time and memory: how long a head
may take, how long a peer may leave an answer unread, how many connections stay open. All of it holds before
authentication, and for any peer that can reach the port.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from uuid import uuid4

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from gateway.addresses import neighbourhood
from gateway.control.problems import MEDIA_TYPE, SECURITY, Problem, ProblemType

LARGEST_HEAD: Final = 32 * 1024
"""Bytes of a request's head at most."""
_SLICE: Final = 8 * 1024
"""Bytes that the parser is given at a time: so a head past the limit is refused however it is sent."""
_HEADERS: Final = 100
"""Headers of a request at most."""
_LINGERING: Final = 2.0
"""Seconds for which a peer may still read the last answer while what it sends is discarded unread."""
_DISCARDED: Final = 16 * 1024 * 1024
"""Bytes that are discarded at most."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing discards what was not sent, and resets the connection."""
_SINGLE: Final = (b"authorization", b"content-type", b"idempotency-key", b"origin")
"""Headers of which two leave open which one counts: a proxy before may have looked at the other."""
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NEVER_ESCAPED: Final = _UNRESERVED | frozenset(b"/\\") | frozenset(range(0x20)) | {0x7F}
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")
_LENIENT_LINE: Final = re.compile(rb"(?<!\r)\n|\n[ \t]")
"""A line that ends without a carriage return, or is folded: RFC 9112 lets a server refuse both."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What connections of one listener may take."""

    connections: int = 256
    """Open connections: file descriptors are needed elsewhere."""
    head: float = 10.0
    """Seconds in which a connection must send its first request, and each further one once it began."""
    idle: float = 30.0
    """Seconds that a connection may be kept without a request."""
    stalled: float = 10.0
    """Seconds for which a peer may leave an answer unread."""
    pieces: int = 1024
    """Parts in which a body may come: each costs the parser some microseconds, however small it is."""
    has_bodies: bool = True
    """Whether any request may have a body."""


class Parser(h11.Connection):
    """h11's parser, which also refuses what h11 lets pass."""

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__(h11.SERVER, LARGEST_HEAD)
        self.problem = ""
        """Why the last request was refused, for people."""
        self.is_head = False
        """Whether the request is a HEAD, which is answered without a body."""
        self._limits = limits
        self._pieces = 0

    def next_event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        """Return the next event; raises h11.RemoteProtocolError for one that is refused."""
        if self.their_state is h11.IDLE:
            self.is_head = False
            head = self.trailing_data[0].partition(b"\r\n\r\n")[0]
            if _LENIENT_LINE.search(head):
                self._refuse("A line of the head is folded, or does not end with CR LF.")
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces, self.is_head = 0, event.method == b"HEAD"
            self._check(event)
        elif isinstance(event, h11.Data):
            self._pieces += 1
            if self._pieces > self._limits.pieces:
                self._refuse(f"The body came in more than {self._limits.pieces} parts.")
        return event

    def _check(self, request: h11.Request) -> None:
        if request.http_version not in {b"1.0", b"1.1"}:
            self._refuse("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        self._check_headers(request)
        self._check_framing(request, dict(request.headers))
        for escape in _ESCAPE.finditer(request.target.partition(b"?")[0]):
            if escape[1] is None or bytes.fromhex(escape[1].decode())[0] in _NEVER_ESCAPED:
                self._refuse("The path has a percent-encoding that it must not have: write each letter as itself.")

    def _check_headers(self, request: h11.Request) -> None:
        if len(request.headers) > _HEADERS:
            self._refuse(f"The request has more than {_HEADERS} headers.")
        names = Counter(name for name, _ in request.headers)
        for name in _SINGLE:
            if names[name] > 1:
                self._refuse(f"The request has more than one {name.decode().title()}.")

    def _check_framing(self, request: h11.Request, headers: Mapping[bytes, bytes]) -> None:
        is_chunked, length = b"transfer-encoding" in headers, headers.get(b"content-length")
        if is_chunked and length is not None:
            self._refuse("The request has both Content-Length and Transfer-Encoding.")
        if is_chunked and request.http_version == b"1.0":
            self._refuse("HTTP/1.0 has no Transfer-Encoding.")
        if is_chunked or int(length or 0) > 0:
            if not self._limits.has_bodies:
                self._refuse("Requests to this port have no body.")
            if request.method in {b"GET", b"HEAD"}:
                self._refuse("A GET or HEAD has no body.")

    def _refuse(self, problem: str) -> None:
        self.problem = problem
        raise h11.RemoteProtocolError(problem)


class HttpConnection(H11Protocol):
    """One connection."""

    conn: Parser

    def __init__(self, config: Config, server_state: ServerState, limits: ConnectionLimits) -> None:
        super().__init__(config, server_state, {})
        self.conn = Parser(limits)
        self.since = 0.0
        """When it became idle, or its peer stopped reading; by the loop's clock."""
        self._limits = limits
        self._is_ending = False
        self.is_gone = False
        """Whether nothing is kept for it any more: it only has to be notified."""
        self._discarded = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    @property
    def is_answering(self) -> bool:
        """Whether a request is being answered, to a peer that reads."""
        is_complete = self.cycle is None or self.cycle.response_complete
        return not is_complete and not self._is_ending and self._unread is None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request; the connection that can best be spared makes room where there are too many."""
        super().connection_made(transport)
        self.since = self.loop.time()
        self._expect(self._limits.head)
        if len(self.connections) > self._limits.connections:
            self._make_room()

    def _make_room(self) -> None:
        """Close the connection that has been idle longest, of the neighbourhood that has most; else this one.

        One that is to close once its peer has read the last answer counts as long as it is there.
        """
        alive = [one for one in self.connections if isinstance(one, HttpConnection) and not one.is_gone]
        if len(alive) <= self._limits.connections:
            return
        count = Counter(one.neighbourhood for one in alive)
        spare = [one for one in alive if one is not self and not one.is_answering]
        if spare:
            max(spare, key=lambda one: (count[one.neighbourhood], -one.since)).give_way()
        else:
            self.drop()

    def give_way(self) -> None:
        """Close the connection for another one."""
        if self._unread is None and not self._is_ending and not self.transport.is_closing():
            self.is_gone = True
            self.transport.abort()
        else:
            self.drop()

    @cached_property
    def neighbourhood(self) -> str:
        """The network of the peer: a client with one address of IPv6 has many."""
        return neighbourhood(None if self.client is None else self.client[0])

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        for timer in (self._deadline, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, a little at a time; what comes after the last answer is not parsed at all."""
        for start in range(0, len(data), _SLICE):
            if self._is_ending:
                self._discarded += len(data) - start
                if self._discarded > _DISCARDED:
                    self.drop()
                return
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + _SLICE])

    def handle_events(self) -> None:
        """Handle what was parsed, until the connection ends."""
        if not self._is_ending:
            super().handle_events()

    def on_response_complete(self) -> None:
        """Expect another request, unless the body of this one is still to come."""
        self.since = self.loop.time()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self.server_state.total_requests += 1
            self._end()
            return
        super().on_response_complete()
        if not self._is_ending:
            is_last = self.transport.is_closing()
            self._expect(self._limits.stalled if is_last else self._limits.idle + self._limits.head)

    def _expect(self, seconds: float) -> None:
        """Close the connection unless another request has begun by then, however slowly its bytes drip."""
        self._at(seconds, self._time_out, self.cycle)

    def _at(self, seconds: float, do: object, *arguments: object) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, do, *arguments)  # type: ignore[arg-type]

    def _time_out(self, before: object) -> None:
        is_idle = self.cycle is None or self.cycle.response_complete
        if self.transport.is_closing():
            self.drop()  # it was to close once the peer has read its answer
        elif self.cycle is before and is_idle:
            self.transport.close()
            self._at(self._limits.stalled, self.drop)

    def pause_writing(self) -> None:
        """Allow a peer that does not read some time, then drop it with all that waits for it."""
        super().pause_writing()
        if self._unread is None:
            self.since = self.loop.time()
            self._unread = self.loop.call_later(self._limits.stalled, self.drop)

    def resume_writing(self) -> None:
        """Go on: the peer reads again."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def drop(self) -> None:
        """Reset the connection: nothing that waits for its peer is kept."""
        self.is_gone = True
        peer: socket.socket | None = self.transport.get_extra_info("socket")
        if peer is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _end(self) -> None:
        """Answer nothing more, and let the peer read the last answer: what it sends meanwhile is discarded."""
        self._is_ending = True
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._at(_LINGERING, self.drop)

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed or must not be, and end the connection."""
        if self.cycle is not None:  # what is being answered is given up
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:  # an answer is half sent
            self.drop()
            return
        request_id = uuid4().hex
        body = Problem(ProblemType.MALFORMED, self.conn.problem or msg).body("", request_id)
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            (b"x-request-id", request_id.encode()),
            *SECURITY,
        ]
        answer: list[h11.Event] = [h11.Response(status_code=400, headers=headers, reason=b"Bad Request")]
        if not self.conn.is_head:
            answer.append(h11.Data(data=body))
        for event in (*answer, h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._end()
