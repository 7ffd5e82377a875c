"""One contender in a process of its own: does its task and prints its result as one line of JSON.

python -m benchmarks.worker '<Task as JSON>'
"""

from __future__ import annotations

import cProfile
import os
import sys

import msgspec

from benchmarks import bare, gateway_side, usual
from benchmarks.task import Task
from gateway.bootstrap import event_loop as loop

CONTENDERS = {
    "gateway": gateway_side.live,
    "catch-up": gateway_side.catch_up,
    "throw-away": gateway_side.throw_away,
    "bare-kafka": bare.kafka_loop,
    "bare-jetstream": bare.jetstream_loop,
    "transactions-kafka": bare.kafka_transactions,
    "transactions-jetstream": bare.jetstream_batches,
    "usual-kafka": usual.kafka_loop,
    "usual-jetstream": usual.jetstream_loop,
}


def main() -> None:
    task = msgspec.json.decode(sys.argv[1], type=Task)
    contender = CONTENDERS[task.contender]
    profile = cProfile.Profile()
    if task.profile:
        profile.enable()
    result = loop.run(contender(task))
    if task.profile:
        profile.disable()
        profile.dump_stats(task.profile)
    print(msgspec.json.encode(result).decode(), flush=True)
    os._exit(0)  # without waiting for threads that never end, as signalrcore's


if __name__ == "__main__":
    main()
