"""A connection to Kafka that takes bytes which flow for a sign of life.

aiokafka gives each answer one limit, counted from the request. An answer of a megabyte over a line of 40 kB/s takes
25 s: it was given up after 5, asked for again from its beginning, and a shard behind such a line was never opened. Here
the limit is one of silence, both ways: a message of a megabyte takes as long to be sent.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

from gateway.broker.traffic import Traffic, drop, traffic

_LOOKS: Final = 4
"""How often within its limit is looked whether bytes of a request are on their way."""


class ClientConnection(AIOKafkaConnection):  # type: ignore[misc]  # it has no annotations
    """aiokafka's connection, which waits for an answer until nothing has flowed for as long as a request may take."""

    _request_timeout: Any
    _writer: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - aiokafka's own
        """Take what aiokafka's takes."""
        super().__init__(*arguments, **options)
        self._last_received_at = -math.inf
        self._asked_at: list[float] = []
        """When each request was sent that has no answer yet; Kafka answers in their order."""

    @property
    def receives_since(self) -> float:
        """Since when no more has come of an answer of which something has; minus infinity where none is under way."""
        is_under_way = bool(self._asked_at) and self._asked_at[0] < self._last_received_at
        return self._last_received_at if is_under_way else -math.inf

    async def connect(self) -> Any:  # noqa: ANN401 - aiokafka's own
        """Connect, and take note of what comes from then on."""
        reader, writer = await super().connect()
        feed = reader.feed_data

        def feed_timed(data: bytes) -> None:
            self._last_received_at = self._loop.time()
            feed(data)

        reader.feed_data = feed_timed
        return reader, writer

    def send(self, request: Any, expect_response: bool = True) -> Any:  # noqa: ANN401, FBT001, FBT002 - aiokafka's own
        """Send a request, and return what awaits its answer; that raises TimeoutError, KafkaError."""
        limit = self._request_timeout
        self._request_timeout = None  # aiokafka's own limit, for this request
        try:
            answer = super().send(request, expect_response)
        except RuntimeError as error:  # uvloop's, of a transport that is closed; aiokafka expects an OSError
            self.close(CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {self.host}:{self.port} closed") from error
        finally:
            self._request_timeout = limit
        return self._answered(answer, limit) if expect_response else answer

    async def _answered(self, answer: Awaitable[Any], limit: float) -> Any:  # noqa: ANN401
        clock = self._loop.time
        asked = moved_at = clock()
        self._asked_at.append(asked)
        waiting = asyncio.ensure_future(answer)
        then = self._traffic()
        end = 0 if then is None else then.taken + then.waiting
        try:
            while not waiting.done():
                left = max(moved_at, self._last_received_at) + limit - clock()
                if left <= 0:
                    raise TimeoutError
                await asyncio.wait({waiting}, timeout=min(left, limit / _LOOKS))
                now = self._traffic()
                if then is not None and now is not None and then.taken < min(now.taken, end):
                    then, moved_at = now, clock()  # what is sent behind the request is no sign that it gets there
            return waiting.result()
        finally:
            self._asked_at.remove(asked)
            waiting.cancel()

    def _traffic(self) -> Traffic | None:
        return None if self._writer is None else traffic(self._writer)

    def close(self, reason: Any = None, exc: Any = None) -> Any:  # noqa: ANN401 - aiokafka's own
        """End the connection; where it was silent for too long, without what waits to be sent."""
        writer = self._writer
        closed = super().close(reason, exc)
        if reason is CloseReason.CONNECTION_TIMEOUT and writer is not None:
            drop(writer)
        return closed


def receives_since(client: AIOKafkaClient) -> float:
    """Return when something came last of an answer that is under way; minus infinity where none is."""
    connections = client._conns.values()  # noqa: SLF001
    return max((one.receives_since for one in connections if isinstance(one, ClientConnection)), default=-math.inf)
