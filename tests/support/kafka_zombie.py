"""A gateway's writer as a process: commits numbers without end, and says what became of it; for SIGSTOP."""

from __future__ import annotations

import asyncio
import sys

from gateway.broker.kafka.topics import Topics
from gateway.broker.ports import Commit
from gateway.errors import BrokerError
from tests.support.event_log_suite import messages
from tests.support.rigs import KINDS, kafka_rig


async def main(address: str, prefix: str, shard: int) -> None:
    """Write to `shard` until the log fails, and print each number that is settled, then the failure's name."""
    topics = Topics(prefix, KINDS)
    async with kafka_rig(address, topics=topics, transaction_timeout=1) as rig, rig.log("zombie").open(shard) as log:
        settled = int((await log.checkpoints()).get("demo", b"0"))
        try:
            while True:
                await log.commit(Commit(messages(settled + 1, settled + 5), {"demo": b"%d" % (settled + 5)}))
                settled += 5
                print(settled, flush=True)  # noqa: T201
        except BrokerError as error:
            print(type(error).__name__, flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
