"""Pulls on a consumer of one's own, in the stream's order.

A pull asks for as much as it will take, so a slow reader slows nobody and loses nothing. The consumer may live on any
server that has the stream, and dies with it: then another one goes on after the last message.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from nats.aio.msg import Msg

from gateway.broker.jetstream.codes import consumer_refused
from gateway.broker.jetstream.link import API, Ear, Link, Refusal
from gateway.errors import Unavailable

_PULL: Final = 256
"""Messages of one pull."""
_NANOSECONDS: Final = 1_000_000_000
_EXPIRES: Final = 30
"""Seconds until a pull that waits for new messages is asked again."""
_HEARTBEAT: Final = 2
"""Seconds between signs of life while a pull waits."""
_FORGOTTEN: Final = 60
"""Seconds after which the server forgets a consumer that nobody pulls from."""
_ACK_TOKENS: Final = 9
"""Of `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>`."""


class Pull:
    """A consumer and the pulls on it, until they have nothing more to give."""

    def __init__(self, link: Link, stream: str, filters: Sequence[str], *, follows: bool) -> None:
        """`follows` tells whether it waits for new messages once it has given those that there are."""
        self._link = link
        self._stream = stream
        self._filters = list(filters)
        self._follows = follows
        self._name = uuid4().hex

    async def begin(self, place: int | datetime) -> None:
        """Make the consumer, from a stream sequence or a time on; raises NeedsPerson, Unavailable."""
        config: dict[str, Any] = {
            "name": self._name,
            "filter_subjects": self._filters,
            "ack_policy": "none",
            "inactive_threshold": _FORGOTTEN * _NANOSECONDS,
            "mem_storage": True,
            "num_replicas": 1,
        }
        if isinstance(place, datetime):
            config |= {"deliver_policy": "by_start_time", "opt_start_time": place.isoformat()}
        else:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": max(place, 1)}
        body = {"stream_name": self._stream, "config": config, "action": "create"}
        try:
            await self._link.api(f"CONSUMER.CREATE.{self._stream}.{self._name}", body)
        except Refusal as refusal:
            raise (
                consumer_refused(refusal.code, refusal.description, stream=self._stream) or refusal
            ) from refusal.__cause__

    async def messages(self) -> AsyncGenerator[Msg, None]:
        """Give messages; ends when there are none now, or the consumer is gone; raises Unavailable."""
        subject = f"{API}.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        taken = _PULL
        async with self._link.subscribed(subject) as ear:
            while taken or self._follows:
                taken = 0
                await self._link.publish(subject, self._request(), ear.subject)
                while taken < _PULL:
                    message = await self._hear(ear)
                    status = None if message is None else (message.headers or {}).get("Status")
                    if message is None or status in {"409", "503"}:
                        return
                    if status in {"404", "408"}:  # nothing there; no more there, or the pull's time is over
                        break
                    if status != "100":
                        taken += 1
                        yield message

    async def _hear(self, ear: Ear) -> Msg | None:
        """Give what comes next, None where the consumer gives no sign of life any more."""
        try:
            async with asyncio.timeout(3 * _HEARTBEAT if self._follows else self._link.timeout):
                return await ear.hear()
        except TimeoutError:
            if self._follows:
                return None
            raise Unavailable("NATS did not answer a pull in time") from None

    def _request(self) -> bytes:
        request: dict[str, Any] = {"batch": _PULL}
        if self._follows:
            request |= {"expires": _EXPIRES * _NANOSECONDS, "idle_heartbeat": _HEARTBEAT * _NANOSECONDS}
        else:
            request["no_wait"] = True
        return json.dumps(request).encode()

    async def take_away(self) -> None:
        """Delete the consumer, and wait until it is gone; raises Unavailable."""
        await self._link.api(f"CONSUMER.DELETE.{self._stream}.{self._name}")

    async def end(self) -> None:
        """Let the server forget the consumer; it does so by itself, too."""
        with suppress(Unavailable):
            await self._link.publish(f"{API}.CONSUMER.DELETE.{self._stream}.{self._name}")


def sequence_of(message: Msg) -> int:
    """Give the stream sequence of a message."""
    return _said(message)[0]


def stored_at(message: Msg) -> float:
    """Give when a message was stored, in seconds since 1970, by the server's clock."""
    return _said(message)[1] / _NANOSECONDS


def _said(message: Msg) -> tuple[int, int]:
    """Read sequence and time off the reply subject, before whose end a domain and an account may stand."""
    tokens = message.reply.split(".")
    skipped = 0 if len(tokens) == _ACK_TOKENS else 2
    return int(tokens[5 + skipped]), int(tokens[7 + skipped])
