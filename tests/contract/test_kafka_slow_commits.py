"""One message that takes longer over a slow line than a commit usually may: it goes through all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from gateway.broker.ports import Commit
from gateway.errors import Unavailable
from tests.support import kafka_server
from tests.support.event_log_suite import messages, numbers
from tests.support.kafka_server import KafkaServer
from tests.support.rigs import KafkaRig, kafka_rig
from tests.support.slow_line import FAST, SlowLine, slow_line

TIMEOUT = 2.0
"""Seconds of a commit; the limit of one request is half of that."""
RATE = 100_000.0
"""Bytes a second."""
LARGE = 600_000
"""Bytes of a message, which take three times as long as a commit may."""


async def test_a_message_too_slow_for_one_commit_goes_through_after_some_tries(
    folder: Path,
) -> None:
    kafka_server.require_java()
    async with at_the_end_of_a_line(folder) as (rig, line):
        line.rate = RATE
        log, failures = rig.log("a"), list[str]()
        (large,) = messages(1, 1)
        commit = Commit([replace(large, value=bytes(LARGE)), *messages(2, 2)], {"demo": b"2"})
        while len(failures) < 5:
            try:
                async with log.open(1) as shard:
                    await shard.checkpoints()
                    await shard.commit(commit)
                    break
            except Unavailable as error:
                failures.append(str(error))
        else:
            raise AssertionError(f"it never goes through: {failures}")
        assert failures
        assert all("1 of demo for order-update, has 600" in one for one in failures)
        line.rate = FAST
        assert await numbers(rig.reader) == [1, 2]


@asynccontextmanager
async def at_the_end_of_a_line(folder: Path) -> AsyncIterator[tuple[KafkaRig, SlowLine]]:
    """Yield a rig on a broker that says that it is where the line begins."""
    server: KafkaServer
    async with slow_line(lambda: server.port) as line:
        server = KafkaServer(folder, config={"advertised.listeners": f"PLAINTEXT://127.0.0.1:{line.port}"})
        await asyncio.to_thread(server.start)
        try:
            async with kafka_rig(f"127.0.0.1:{line.port}", timeout=TIMEOUT) as rig:
                yield rig, line
        finally:
            server.kill()
