"""A trial of what the gateway needs of JetStream: a direct get, and a batch in each stream that takes some.

A batch is sent whole, on a condition that cannot hold: so the server takes it, checks it and closes it, and nothing is
stored.
"""

from __future__ import annotations

import json
from typing import Final
from uuid import uuid4

from gateway.broker.jetstream.connection import Connection
from gateway.broker.jetstream.direct import DirectReader
from gateway.broker.jetstream.error_codes import MOVED, problem_of
from gateway.broker.jetstream.stream import OLDEST_SERVER
from gateway.broker.jetstream.topics import Topics
from gateway.errors import Fenced, OutcomeUnknown, Unavailable

OLDEST: Final = ".".join(map(str, OLDEST_SERVER))
"""The oldest nats-server that is supported."""

_NEVER: Final = (1 << 63) - 1
"""The sequence of no message."""


class Trial:
    """Tries the streams of one deployment."""

    def __init__(self, connection: Connection, topics: Topics) -> None:
        self._connection = connection
        self._topics = topics

    async def reads(self) -> None:
        """Read from the control stream as a replica does; raises ActionRequired, Unavailable."""
        await DirectReader(self._connection.link, self._topics.control, self._topics.stated).batch(1)

    async def batches(self) -> None:
        """Send each stream that is to take batches one that it must refuse; raises ActionRequired, Unavailable."""
        name = uuid4().hex  # no account's: no other client's batch waits for this one
        await self._batch(self._topics.stream, self._topics.checkpoint(0, name))
        await self._batch(self._topics.control, self._topics.observed(name))

    async def _batch(self, stream: str, subject: str) -> None:
        headers = {
            "Nats-Batch-Id": uuid4().hex,
            "Nats-Batch-Sequence": "1",
            "Nats-Batch-Commit": "1",
            "Nats-Expected-Last-Subject-Sequence": str(_NEVER),
        }
        answer = await self._connection.link.ask(subject, b"", headers)
        try:
            error = json.loads(answer.data)["error"]
            code, description = int(error["err_code"]), str(error["description"])
        except (ValueError, KeyError, TypeError) as unclear:
            raise Unavailable(f"{subject}: unclear answer {answer.data[:100]!r} to a batch") from unclear
        if code in MOVED:
            return
        problem = problem_of(code, description, stream=stream)
        if isinstance(problem, (Fenced, OutcomeUnknown)):
            raise Unavailable(f"the stream {stream} refuses a batch: {description} (error {code})")
        raise problem
