"""The permanent records of a deployment, apart from the log: the accounts it has begun, and its number of shards.

It is a stream of its own, so that it still has the accounts when an operator deletes or empties the log. Then a missing
checkpoint is a loss to be examined, not a new account whose whole history is published again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from gateway.broker.foreign_records import parsed_object
from gateway.broker.jetstream import records
from gateway.broker.jetstream.connect_errors import permissions_needed
from gateway.broker.jetstream.connection import Connection
from gateway.broker.jetstream.link import JetStreamApiError, Link, PermissionDenied
from gateway.broker.jetstream.stream import REMEDY, SMALLEST_MESSAGE
from gateway.broker.jetstream.stream_rules import StreamRules
from gateway.broker.jetstream.topics import Topics
from gateway.errors import ConfigurationError, Conflict, OutcomeUnknown, Unavailable

VERSION: Final = 1
_FORGETFUL: Final = ("max_age", "max_bytes", "max_msgs")
_BARRED: Final = ("discard_new_per_subject", "subject_delete_marker_ttl")
_ALLOWED: Final = {
    "allow_atomic": "nothing could be reported",
    "allow_msg_ttl": "nothing could be forgotten",
    "allow_direct": "nothing could be read",
}
"""What the stream must allow, and what harm it does where it does not."""
_MARKED: Final = 1
"""Seconds that the marker of an account stays: the shortest that JetStream has."""
_LOOK: Final = 0.05


class JetStreamRegistry:
    """The registry of one deployment (`gateway.broker.ports.Registry`)."""

    def __init__(self, connection: Connection, topics: Topics) -> None:
        self._connection = connection
        self._topics = topics
        self._stream = topics.control

    async def prepare(self, *, replicas: int, create: bool) -> None:
        """Create the stream if there is none; raises ConfigurationError, Unavailable."""
        wanted: dict[str, Any] = {
            "name": self._stream,
            "description": "Accounts, the number of shards and the control state of the gateway; never to be lost",
            "subjects": [f"{self._topics.prefix}.gateway.control.>"],
            "retention": "limits",
            "storage": "file",
            "num_replicas": replicas,
            "max_msgs_per_subject": 1,
            "discard": "old",
            **dict.fromkeys(_ALLOWED, True),
        }
        with permissions_needed():
            config = await records.made(self._connection.link, wanted, create=create)
        rules = StreamRules("accounts", wanted["subjects"], replicas, SMALLEST_MESSAGE, also_without=_BARRED)
        if wrong := [*_wrong(config), *rules.broken_by(config)]:
            raise ConfigurationError(f"stream {self._stream}", "; ".join(wrong), REMEDY.format(stream=self._stream))
        lacking = [setting for setting in _ALLOWED if not config.get(setting)]
        if lacking:
            await self._allow(lacking, config, may_edit=create)

    async def _allow(self, settings: Sequence[str], config: dict[str, Any], *, may_edit: bool) -> None:
        """Edit a stream of a release that needed less, or log that a person must."""
        missing = "; ".join(f"{setting} is off: {_ALLOWED[setting]}" for setting in settings)
        remedy = f"Set {' and '.join(settings)} on it, or permit $JS.API.STREAM.UPDATE.{self._stream} for one start."
        problem = ConfigurationError(f"stream {self._stream}", missing, remedy)
        if not may_edit:
            raise problem
        try:
            await self._connection.link.api(f"STREAM.UPDATE.{self._stream}", config | dict.fromkeys(settings, True))
        except (PermissionDenied, JetStreamApiError) as error:
            raise problem from error

    async def ensure_layout(self, shards: int) -> None:
        """Fix the number of shards at the first start; raises ConfigurationError where it is another."""
        subject = self._topics.deployment
        with permissions_needed():
            await self._write_first(subject, {"version": VERSION, "shards": shards})
            stored = await self._last(subject, shards)
        if stored["shards"] != shards:
            raise ConfigurationError(
                "shards",
                f"{shards} is not the number that this deployment started with: {stored['shards']}",
                f"Set it to {stored['shards']}; another number would look for checkpoints where they are not.",
            )

    async def accounts(self) -> frozenset[str]:
        """Return every account that was ever begun, and not forgotten since; raises Unavailable."""
        begun = await records.subjects(self._connection.link, self._stream, self._topics.begun(None))
        return frozenset(subject.rpartition(".")[2] for subject in begun)

    async def register(self, account: str) -> None:
        """Remember `account`; it is no error that it is known. Raises Unavailable."""
        await self._write_first(self._topics.begun(account), {"version": VERSION})

    async def forget(self, accounts: Collection[str]) -> None:
        """Erase `accounts`; an unknown one is no error. Raises Unavailable.

        The server lists subjects whatever their messages contain, so this waits until the markers have gone, too: a
        second.
        """
        link, left = self._connection.link, sorted((await self.accounts()).intersection(accounts))
        if not left:
            return
        try:
            await records.forget(link, [self._topics.begun(account) for account in left], _MARKED)
            await asyncio.sleep(_MARKED)
            async with asyncio.timeout(link.timeout):
                await self._until_unmarked(link, left)
        except (OutcomeUnknown, TimeoutError) as error:
            raise Unavailable(f"{', '.join(left)}: {error or 'it is still there'}") from error

    async def _until_unmarked(self, link: Link, accounts: Collection[str]) -> None:
        """Wait until none of `accounts` has a marker; one that was begun again meanwhile has none."""
        for account in accounts:  # all their markers end in the same moment
            while True:
                current = await records.last(link, self._stream, self._topics.begun(account))
                if current is None or not current.is_marker:
                    break
                await asyncio.sleep(_LOOK)

    async def _write_first(self, subject: str, value: dict[str, Any]) -> None:
        """Write `value` unless there is one; writing it twice, after a lost answer, does no harm."""
        try:
            await records.write_first(self._connection.link, self._stream, subject, json.dumps(value).encode())
        except Conflict:
            return
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error

    async def _last(self, subject: str, shards: int) -> dict[str, Any]:
        found = await records.last(self._connection.link, self._stream, subject)
        if found is None:
            raise Unavailable(f"{subject}: what was written is not there yet")
        stored = parsed_object(found.value)
        if not isinstance(stored.get("shards"), int):
            raise ConfigurationError(
                f"stream {self._stream}",
                f"what it has under {subject} is no record of a gateway: {found.value[:100]!r}",
                f"Publish {json.dumps({'version': VERSION, 'shards': shards})} there, with the number of shards that "
                "the deployment started with; where it never began, take the message away.",
            )
        if stored.get("version") != VERSION:
            raise ConfigurationError(
                f"stream {self._stream}",
                f"its records have version {stored.get('version')}, this release reads version {VERSION}",
                "Run the release that wrote them.",
            )
        return stored


def _wrong(config: dict[str, Any]) -> Iterator[str]:
    """Say what lets accounts leave, or superseded records stay."""
    for limit in _FORGETFUL:
        if int(config.get(limit, 0)) > 0:
            yield f"{limit} is {config[limit]}: it would forget accounts"
    if int(config.get("max_msgs_per_subject", -1)) < 1:
        yield "max_msgs_per_subject is not set: each report would stay, and every start would read them; set it to 1"
