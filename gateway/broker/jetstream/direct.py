"""Reads a stream in order, without a consumer: in batches of JetStream's direct get.

A user who may create a consumer may let the server publish to any subject (`deliver_subject`), and one who may name it
freely may change the consumers of others. A direct get needs neither: it changes nothing on the server.

Any server with a copy of the stream may answer, also one that is behind the leader. So an empty batch does not mean
that there is nothing: ask the leader, by STREAM.INFO or STREAM.MSG.GET.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from nats.aio.msg import Msg

from gateway.broker.jetstream.link import Link, NoResponders, ReplyInbox, has_no_responders
from gateway.errors import ActionRequired, BrokerError, Unavailable

_BATCH_MESSAGES: Final = 256
_BATCH_BYTES: Final = 1024 * 1024
"""Payload bytes after which the server ends a batch; it always sends one message."""
_REPEAT_S: Final = 2.0
"""Seconds until a batch is requested again: what was asked of a server that was away is never answered."""
_END_OF_BATCH: Final = "204"
_NOT_FOUND: Final = "404"
_SEQUENCE: Final = "Nats-Sequence"
"""The header that the server adds to a stored message, and to nothing else. A publisher can write a status as well."""


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """A stored message."""

    subject: str
    sequence: int
    stored_at: float
    """Seconds since 1970, by the clock of the stream's leader."""
    headers: Mapping[str, str]
    value: bytes


class DirectReader:
    """Reads the messages of a stream under one subject filter, in the stream's order."""

    def __init__(self, link: Link, stream: str, subjects: str) -> None:
        self._link = link
        self._stream = stream
        self._subjects = subjects
        self._api = f"{link.api_prefix}.DIRECT.GET.{stream}"

    async def batch(self, start: int | datetime) -> list[StreamMessage]:
        """Return the next messages from a stream sequence or a time on; none where the server has no more now.

        Raises:
            ActionRequired: the stream allows no direct get.
            Unavailable: the link was lost, no server answered in time, or this user may not read.

        """
        request: dict[str, Any] = {
            "batch": _BATCH_MESSAGES,
            "max_bytes": _BATCH_BYTES,
            "next_by_subj": self._subjects,
        }
        if isinstance(start, datetime):
            request["start_time"] = start.isoformat()
        else:
            request["seq"] = max(start, 1)
        entries: list[StreamMessage] = []
        with self._link.open_inbox(self._api) as inbox:
            message = await self._first(inbox, json.dumps(request).encode())
            while _SEQUENCE in (message.headers or {}):
                entry = _entry(message)
                # Where the request was repeated, a second answer may begin again from the start.
                if not entries or entry.sequence > entries[-1].sequence:
                    entries.append(entry)
                message = await self._next(inbox)
        if has_no_responders(message):
            raise await self._no_responders()
        status = (message.headers or {}).get("Status")
        if status not in {_END_OF_BATCH, _NOT_FOUND}:
            raise Unavailable(f"{self._api}: NATS answered with status {status}")
        return entries

    async def _first(self, inbox: ReplyInbox, request: bytes) -> Msg:
        """Send the request until something answers."""
        try:
            async with self._link.time_limit():
                while True:
                    await self._link.publish(self._api, request, inbox.subject)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_REPEAT_S):
                            return await inbox.next()
        except TimeoutError as error:
            raise Unavailable(f"{self._api}: NATS did not answer in time") from error

    async def _next(self, inbox: ReplyInbox) -> Msg:
        try:
            async with asyncio.timeout(self._link.timeout):
                return await inbox.next()
        except TimeoutError as error:
            raise Unavailable(f"{self._api}: NATS did not finish its answer in time") from error

    async def _no_responders(self) -> BrokerError:
        """Return why no server answers a direct get of this stream."""
        config = (await self._link.api(f"STREAM.INFO.{self._stream}"))["config"]
        if config.get("allow_direct"):
            return NoResponders(f"no server answers {self._api} now{self._link.api_hint}")
        return ActionRequired(
            f"the stream {self._stream} cannot be read: allow_direct is off. "
            f"Set it: `nats stream edit {self._stream} --allow-direct`"
        )


def _entry(message: Msg) -> StreamMessage:
    headers = message.headers or {}
    try:
        return StreamMessage(
            headers["Nats-Subject"],
            int(headers[_SEQUENCE]),
            datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp(),
            headers,
            message.data,
        )
    except (KeyError, ValueError) as error:
        raise Unavailable(f"NATS answered a direct get with an unclear message: {headers!r:.200}") from error
