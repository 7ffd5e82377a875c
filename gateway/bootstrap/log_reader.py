"""Assembles the parts of a comparison: a hub to ask, and a log to compare with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final

from gateway.broker.ports import LogReader, Stored
from gateway.errors import GatewayError
from gateway.events.catalogue import KINDS
from gateway.hub.client import hub_http, transport_of
from gateway.hub.methods import PATH, Hub
from gateway.settings.model import Settings
from gateway.signalr.connect import connect as connect_hub
from gateway.verify.compare import Logged

_FIRST: Final = "1"
"""The incarnation of what early releases wrote without one."""
_DIGITS: Final = 20
"""As many as a sequence is written with."""


@asynccontextmanager
async def open_hub(settings: Settings, key: str) -> AsyncIterator[Hub]:
    """Connect to the hub to ask it something; pushes are passed over. Raises HubError."""
    async with hub_http(settings.hub) as http:
        connection = await connect_hub(transport_of(settings.hub, http), settings.hub.url + PATH, key)
        reading = asyncio.create_task(connection.run(lambda _target, _arguments: None))
        try:
            yield Hub(connection)
        finally:
            reading.cancel()
            await asyncio.wait({reading})  # what ended it, the calls have raised
            await connection.close()


async def read_log(reader: LogReader, account: str, topics: Sequence[str] = KINDS) -> AsyncGenerator[Logged, None]:
    """Yield an account's log as it is now, for a comparison, without replays; raises Unavailable."""
    reading = reader.read(topics=topics, accounts=[account], start="first", follow=False)
    async with aclosing(reading) as messages:  # type: ignore[type-var]
        async for stored in messages:
            message = stored.message
            if "replayid" in message.attributes:
                continue
            sequence = message.attributes.get("sequence")
            yield Logged(
                kind=message.topic,
                sequence=None if sequence is None else _number(stored, "sequence", sequence),
                value=message.value,
                late="late" in message.attributes,
                incarnation=_number(stored, "incarnation", message.attributes.get("incarnation", _FIRST)),
            )


def _number(stored: Stored, name: str, text: str) -> int:
    """Read an attribute; raises GatewayError: a client with the permission may write anything to the broker."""
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise GatewayError(f"the message at {stored.position} has no number as its {name}, but {text[:_DIGITS]!r}")
    return int(text)
