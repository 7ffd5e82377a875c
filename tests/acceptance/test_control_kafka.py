"""The control plane on Kafka: a change through a replica that does not own the account, and a broker that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import kafka_server
from tests.support.control_client import control_of
from tests.support.gateway_process import until
from tests.support.kafka_cluster import made
from tests.support.kafka_server import KafkaServer


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Yield a broker that says that it is where the wire is."""
    kafka_server.require_java()
    wire = kafka_server.free_port()
    config = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire}"}
    with KafkaServer(tmp_path_factory.mktemp("kafka"), config=config) as started:
        started.wire_port = wire
        yield started


async def test_any_replica_changes_desired_state_and_a_repeated_key_does_no_more(
    server: KafkaServer, tmp_path: Path
) -> None:
    async with made(tmp_path, server, accounts=("main", "other", "third", "fourth")) as place:
        one, two = [await control_of(await place.gateway(), place.http) for _ in range(2)]
        for control in (one, two):
            await control.ready()

        async def share() -> bool:
            found = await one.accounts()
            owners = {(each["observed"] or {}).get("owner") for each in found.values()}
            states = {(each["observed"] or {}).get("state") for each in found.values()}
            return len(found) == 4 and len(owners) == 2 and states == {"live"}

        await until(share, "both serve some of the accounts")
        await two.live(place.accounts)
        for name in place.accounts:
            answer = await one.ask(f"PUT /v1/accounts/{name}/subscription", json={"strategies": [1]})
            assert answer.status in {200, 202}, answer
            request = f"POST /v1/accounts/{name}/reconnect"
            answers = await asyncio.gather(*(each.ask(request, Idempotency_Key="k") for each in (one, two, one, two)))
            assert {(answer.body.get("reconnects"), answer.status // 100) for answer in answers} == {(1, 2)}, answers

        async def is_so() -> bool:
            found = await two.accounts()
            return all(
                each["is_applied"] and each["observed"]["subscription"]["strategies"] == [1] for each in found.values()
            )

        await until(is_so, "all is as wanted")
        for control in (one, two):
            control.running.kill()
        three = await control_of(await place.gateway(), place.http)
        await three.ready()
        await three.live(place.accounts)
        assert {each["desired"]["reconnects"] for each in (await three.accounts()).values()} == {1}

        server.kill()
        answer = await three.ask("PUT /v1/accounts/main/subscription", json={"strategies": None})
        assert answer.status == 503, answer
        assert answer.problem in {"broker-unavailable", "outcome-unknown"}
        assert int(answer.headers["Retry-After"]) > 0
        assert (await three.accounts())["main"]["observed"]["age_seconds"] >= 0
