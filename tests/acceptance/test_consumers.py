"""What people do with the log: `gateway verify` finds every planted defect, and the consumer of the docs is exact."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest

from tests.support.control_client import control_of
from tests.support.gateway_process import GATEWAY, House, house, process
from tests.support.permissions import nats_consumer
from tests.support.replay_client import again_on_topics


async def verdict(world: House) -> tuple[int, str]:
    command = (GATEWAY, "verify", "--config", world.config, "--wait", "0")
    async with process(world.folder, *command, name="verify") as verify:
        code = await verify.ended()
        assert "Traceback" not in verify.stderr
        return code, verify.stdout


async def test_verify_says_exact_or_names_skipped_altered_repeated_and_unordered(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=2, prefill=300) as world:
        gateway = await world.gateway()
        await world.settled(300)
        gateway.kill()
        code, output = await verdict(world)
        assert (code, output.splitlines()[-1]) == (0, "verdict: exact")
        assert "account-1: exact: 300 of 300" in output

        client = await nats.connect(world.server.url, allow_reconnect=False)
        stream = client.jetstream()
        one = await stream.get_last_msg("mesolive-gateway", "mesolive.events.order-update.v1.account-1")
        two = await stream.get_last_msg("mesolive-gateway", "mesolive.events.leg-update.v1.account-2")
        assert one.seq is not None
        assert one.headers is not None
        assert two.headers is not None
        await stream.delete_msg("mesolive-gateway", one.seq)
        skipped = int(one.headers["ce-sequence"])
        code, output = await verdict(world)
        assert code == 1
        assert f"account-1: NOT exact: 1 lost ({skipped})" in output

        assert one.data is not None
        await stream.publish(one.subject or "", one.data.replace(b"1", b"2", 1), headers=_own(one.headers))
        code, output = await verdict(world)
        assert f"1 out of order ({skipped})" in output
        assert "1 altered" in output

        await stream.publish(two.subject or "", two.data or b"", headers=_own(two.headers))
        code, output = await verdict(world)
        assert f"account-2: NOT exact: 1 repeated ({int(two.headers['ce-sequence'])})" in output
        await client.close()


async def test_the_docs_consumer_applies_each_event_once_over_stops_and_replays(
    tmp_path: Path,
) -> None:
    consumer = nats_consumer()
    async with house(tmp_path, accounts=2, prefill=400) as world:
        control = await control_of(await world.gateway(), world.http)
        await world.settled(400)
        truth = [event for events in (await world.truth()).values() for event in events]
        orders = sum(event.callback == "OnOrderUpdate" for event in truth)
        state = str(tmp_path / "orders.sqlite")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(consumer, "read_event", _fails_at(consumer.read_event, orders // 2))
            with pytest.raises(ConnectionError):
                await consumer.consume(world.server.url, state, until_idle=True)
        rest = await consumer.consume(world.server.url, state, until_idle=True)
        assert rest == orders - orders // 2
        assert await consumer.consume(world.server.url, state, until_idle=True) == 0
        rows = filled(state)
        assert 0 < len(rows) <= orders

        assert await again_on_topics(world, control) > 0
        assert await consumer.consume(world.server.url, state, until_idle=True) == 0
        assert filled(state) == rows


async def test_the_docs_consumer_misses_nothing_that_another_process_takes(
    tmp_path: Path,
) -> None:
    consumer = nats_consumer()
    async with house(tmp_path, accounts=1, prefill=200) as world:
        await world.gateway()
        await world.settled(200)
        state = str(tmp_path / "orders.sqlite")
        before = await consumer.consume(world.server.url, state, until_idle=True)
        applied = 0
        apply = consumer.apply

        def counted(*arguments: object) -> None:
            nonlocal applied
            apply(*arguments)
            applied += 1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(consumer, "apply", counted)
            async with thief(world) as stolen, asyncio.timeout(60):
                honest = asyncio.create_task(consumer.consume(world.server.url, state))
                await world.emit(400, 200)
                await world.settled(600)
                truth = [event for events in (await world.truth()).values() for event in events]
                orders = sum(event.callback == "OnOrderUpdate" for event in truth)
                while applied < orders - before or not stolen:
                    assert not honest.done()
                    await asyncio.sleep(0.05)
                honest.cancel()
                await asyncio.wait({honest})
        assert applied == orders - before
        assert await consumer.consume(world.server.url, state, until_idle=True) == 0


@asynccontextmanager
async def thief(world: House) -> AsyncIterator[list[int]]:
    """Take every other message or so of the example's consumer; give their sequences as they come."""
    client = await nats.connect(world.server.url, allow_reconnect=False)
    stolen: list[int] = []

    async def steal() -> None:
        pulls = await client.jetstream().pull_subscribe_bind(consumer="example", stream="mesolive-gateway")
        while True:
            try:
                stolen.extend(one.metadata.sequence.stream for one in await pulls.fetch(3, timeout=0.5))
            except TimeoutError:
                continue
            await asyncio.sleep(0.5)

    stealing = asyncio.create_task(steal())
    try:
        yield stolen
    finally:
        stealing.cancel()
        await asyncio.wait({stealing})
        await client.close()


def filled(state: str) -> list[tuple[str, int, str]]:
    """Return the quantities that the example knows."""
    database = sqlite3.connect(state)
    rows = database.execute("SELECT account, order_id, qty FROM filled ORDER BY account, order_id").fetchall()
    database.close()
    return rows


def _own(headers: dict[str, str]) -> dict[str, str]:
    """Leave out what belongs to the batch that the message came in."""
    return {name: value for name, value in headers.items() if not name.startswith("Nats-")}


def _fails_at(read: object, limit: int) -> object:
    count = 0

    def reading(kind: str, value: bytes) -> object:
        nonlocal count
        count += 1
        if count > limit:
            raise ConnectionError("the consumer's process dies")
        return read(kind, value)  # type: ignore[operator]

    return reading
