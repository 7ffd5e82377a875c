"""The gateway as `gateway run` puts it together, with a look at each commit."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.task import PATH, Result, Stopwatch, Task, ask
from gateway.bootstrap.broker import open_broker, prepare_broker, tracing_destinations
from gateway.bootstrap.event_loop import tune_garbage_collector
from gateway.broker.ports import Commit, EventLog, Limits, Lost, ShardLog
from gateway.hub.client import hub_http, transport_of
from gateway.hub.methods import Hub
from gateway.replica.replica import Replica
from gateway.replica.source.account import AccountState
from gateway.settings.model import Settings
from gateway.settings.sections import AccountsSettings, BrokerSettings, HubSettings, TracingSettings
from gateway.signalr.connect import connect
from gateway.telemetry.logs import configure_logs
from gateway.telemetry.tracer import tracing


class Watched:
    """An event log that notes what was committed, and when."""

    def __init__(self, log: EventLog, events: int) -> None:
        self.commits = self.messages = 0
        self.times: dict[int, float] = {}
        self.done = asyncio.Event()
        self._log, self._events = log, events

    @asynccontextmanager
    async def open(self, shard: int) -> AsyncIterator[ShardLog]:
        async with self._log.open(shard) as writer:
            yield WatchedShard(writer, self)

    def note(self, commit: Commit) -> None:
        now = time.monotonic()
        self.commits += 1
        self.messages += len(commit.messages)
        if self._events <= 10_000:  # for latency; a flood has no use for it
            self.times |= {int(message.key): now for message in commit.messages}
        if self.messages >= self._events:
            self.done.set()


class WatchedShard:
    """Its writer."""

    def __init__(self, writer: ShardLog, watched: Watched) -> None:
        self._writer, self._watched = writer, watched

    @property
    def epoch(self) -> int:
        return self._writer.epoch

    @property
    def limits(self) -> Limits:
        return self._writer.limits

    @property
    def lost(self) -> Mapping[str, Collection[Lost]]:
        return self._writer.lost

    async def checkpoints(self) -> dict[str, bytes]:
        return await self._writer.checkpoints()

    async def commit(self, commit: Commit) -> None:
        await self._writer.commit(commit)
        self._watched.note(commit)


@asynccontextmanager
async def running(task: Task) -> AsyncIterator[Watched]:
    """Run the gateway for one new account; it is live, or catching up."""
    configure_logs("console", "warning")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        (Path(folder) / task.account).write_text("key")
        settings = Settings(
            hub=HubSettings(url=task.hub),
            accounts=AccountsSettings(directory=Path(folder)),
            broker=BrokerSettings(kind=task.broker, servers=[task.server]),
        )
        traced = TracingSettings(endpoint=task.collector, sample_ratio=task.ratio)
        async with hub_http(settings.hub) as http, open_broker(settings.broker, settings.topics) as broker:
            await prepare_broker(broker, settings)
            watched = Watched(broker.log, task.events)
            tracer = stack.enter_context(tracing(traced, role="replica", broker=tracing_destinations(settings.broker)))
            replica = Replica(settings, watched, broker.registry, http, tracer=tracer)
            tune_garbage_collector()
            serving = asyncio.create_task(replica.run())
            while replica.statuses()[0].state not in {AccountState.LIVE, AccountState.CATCHING_UP}:  # noqa: ASYNC110 - for people
                await asyncio.sleep(0.001)
            yield watched
            replica.stop()
            await serving


async def live(task: Task) -> Result:
    """Publish what is pushed, as fast as it comes or as it comes."""
    async with running(task) as watched:
        await asyncio.sleep(0.5)  # live, and its first checkpoint committed
        stopwatch = Stopwatch()
        await asyncio.to_thread(ask, task.hub, "begin")
        await watched.done.wait()
        result = stopwatch.result(watched.messages, commits=watched.commits)
        reported = await asyncio.to_thread(ask, task.hub, "told")
        result.pushes = max(0, watched.messages - reported["paged"])  # the rest found no room when it was pushed
        if task.rate:
            result.latencies = [watched.times[number] - moment for number, moment in enumerate(reported["sent"], 1)]
        return result


async def catch_up(task: Task) -> Result:
    """Page all of a history and commit it."""
    stopwatch = Stopwatch()
    async with running(task) as watched:
        await watched.done.wait()
        first = (await asyncio.to_thread(ask, task.hub, "told"))["first_page"]
        return stopwatch.result(watched.messages, since=first, commits=watched.commits)


async def throw_away(task: Task) -> Result:
    """Page all of a history by the gateway's own connection, and do nothing with it."""
    settings = HubSettings(url=task.hub)
    async with hub_http(settings) as http:
        connection = await connect(transport_of(settings, http), task.hub + PATH, "key")
        reading = asyncio.create_task(connection.run(lambda _target, _arguments: None))
        hub = Hub(connection)
        await hub.subscribe(None)
        stopwatch, token, events = Stopwatch(), None, 0
        while events < task.events:
            page = await hub.events_since(0, settings.page_limit, token)
            token, events = page.token, events + len(page.envelopes)
        result = stopwatch.result(events)
        reading.cancel()
        await asyncio.wait({reading})
        await connection.close()
        return result
