"""What a deployment must never forget, apart from the log: which accounts it has begun, and its number of shards.

It is a stream of its own, so that it still knows the accounts when somebody deletes or empties the log: then
a missing checkpoint is a loss to be looked at, not a new account whose whole history is published again.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from gateway.broker.jetstream.connect import Connection
from gateway.broker.jetstream.link import Link, Refusal
from gateway.broker.jetstream.refusals import permissions_needed
from gateway.broker.jetstream.topics import Topics
from gateway.errors import ConfigurationError, Unavailable

VERSION: Final = 1
_NOT_FOUND: Final = 10059
_NAME_IN_USE: Final = 10058
_ALREADY_THERE: Final = 10071
_FORGETFUL: Final = ("max_age", "max_bytes", "max_msgs")


class JetStreamRegistry:
    """The registry of one deployment (`gateway.broker.ports.Registry`)."""

    def __init__(self, connection: Connection, topics: Topics) -> None:
        self._connection = connection
        self._topics = topics
        self._stream = topics.control

    async def prepare(self, *, replicas: int, create: bool) -> None:
        """Make the stream if there is none; raises ConfigurationError, Unavailable."""
        with permissions_needed():
            info = await self._made(self._connection.link, replicas=replicas, create=create)
        config = info["config"]
        wrong = [f"{name} is {config[name]}" for name in _FORGETFUL if int(config.get(name, 0)) > 0]
        if wrong:
            raise ConfigurationError(
                f"stream {self._stream}", f"{'; '.join(wrong)}: it would forget accounts", "Take the limits away."
            )

    async def _made(self, link: Link, *, replicas: int, create: bool) -> dict[str, Any]:
        try:
            return await link.api(f"STREAM.INFO.{self._stream}")
        except Refusal as refusal:
            if refusal.code != _NOT_FOUND:
                raise
            if not create:
                remedy = "Make it, or let the gateway make it."
                raise ConfigurationError(f"stream {self._stream}", "there is no such stream", remedy) from refusal
            return await self._create(link, replicas)

    async def _create(self, link: Link, replicas: int) -> dict[str, Any]:
        wanted = {
            "name": self._stream,
            "description": "Accounts and the number of shards of the gateway; small, and never to be lost",
            "subjects": [f"{self._topics.prefix}.gateway.control.>"],
            "retention": "limits",
            "storage": "file",
            "num_replicas": replicas,
            "max_msgs_per_subject": 1,
            "discard": "old",
        }
        try:
            return await link.api(f"STREAM.CREATE.{self._stream}", wanted)
        except Refusal as refusal:
            if refusal.code == _NAME_IN_USE:  # another replica was quicker
                return await link.api(f"STREAM.INFO.{self._stream}")
            raise

    async def agree(self, shards: int) -> None:
        """Fix the number of shards at the first start; raises ConfigurationError where it is another."""
        subject = self._topics.deployment
        with permissions_needed():
            await self._write_first(subject, {"version": VERSION, "shards": shards})
            stored = await self._last(subject)
        if stored["shards"] != shards:
            raise ConfigurationError(
                "shards",
                f"{shards} is not the number that this deployment started with: {stored['shards']}",
                f"Set it to {stored['shards']}; another number would look for checkpoints where they are not.",
            )

    async def known(self) -> frozenset[str]:
        """Give every account that was ever begun; raises Unavailable."""
        found: dict[str, int] = {}
        while True:
            body = {"subjects_filter": self._topics.begun(None), "offset": len(found)}
            page = await self._connection.link.api(f"STREAM.INFO.{self._stream}", body)
            subjects = page["state"].get("subjects") or {}
            found |= subjects
            if not subjects or len(found) >= page.get("total", 0):
                return frozenset(subject.rpartition(".")[2] for subject in found)

    async def register(self, account: str) -> None:
        """Remember `account`; it is no error that it is known. Raises Unavailable."""
        await self._write_first(self._topics.begun(account), {"version": VERSION})

    async def _write_first(self, subject: str, value: dict[str, Any]) -> None:
        """Write `value` unless there is one; writing it twice, after a lost answer, does no harm."""
        headers = {"Nats-Expected-Last-Subject-Sequence": "0"}
        answer = json.loads((await self._connection.link.ask(subject, json.dumps(value).encode(), headers)).data)
        error = answer.get("error")
        if error is not None and error.get("err_code") != _ALREADY_THERE:
            raise Unavailable(f"{subject}: {error.get('description')}")

    async def _last(self, subject: str) -> dict[str, Any]:
        answer = await self._connection.link.api(f"STREAM.MSG.GET.{self._stream}", {"last_by_subj": subject})
        stored: dict[str, Any] = json.loads(base64.b64decode(answer["message"]["data"]))
        if stored.get("version") != VERSION:
            raise ConfigurationError(
                f"stream {self._stream}",
                f"its records have version {stored.get('version')}, this release reads version {VERSION}",
                "Run the release that wrote them.",
            )
        return stored
