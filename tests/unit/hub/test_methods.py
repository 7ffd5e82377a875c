"""The four methods at the simulated hub, in both recorded forms."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from gateway.errors import CallFailed, CallRejected
from gateway.hub.methods import Hub, SubscriptionAnswer
from gateway.signalr.connect import connect
from gateway.signalr.transport import Transport
from gateway.simulator import PATH, Failure, Form, Simulator, SimulatorConfig, simulator

KEY = "the-key-of-an-account"


@pytest.fixture(params=list(Form))
async def simulated(request: pytest.FixtureRequest) -> AsyncIterator[Simulator]:
    async with simulator(SimulatorConfig(users={"demo": KEY}, form=request.param, prefill=2_500)) as running:
        yield running


@pytest.fixture
async def hub(simulated: Simulator) -> AsyncIterator[Hub]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        connection = await connect(Transport(http), simulated.url + PATH, KEY)
        reading = asyncio.create_task(connection.run(lambda *_: None))
        yield Hub(connection)
        reading.cancel()
        await asyncio.wait({reading})
        await connection.close()


async def test_a_subscription_names_what_holds_and_what_does_not(hub: Hub) -> None:
    assert await hub.subscribe(None) == SubscriptionAnswer((1, 2, 3, 4, 5), ())
    assert await hub.subscribe([1, 99]) == SubscriptionAnswer((1,), (99,))
    assert await hub.unsubscribe([]) == SubscriptionAnswer((), ())
    assert await hub.unsubscribe(None)


async def test_pages_lead_to_the_latest(hub: Hub) -> None:
    latest = await hub.latest()
    page = await hub.events_since(0, 1000, None)
    sizes = [len(page.envelopes)]
    while page.token is not None:
        page = await hub.events_since(0, 1000, page.token)
        sizes.append(len(page.envelopes))
    assert sizes == [1000, 1000, 500]
    assert latest.sequence == 2_500


async def test_a_limit_above_the_hubs_is_rejected_by_its_name(hub: Hub) -> None:
    with pytest.raises(CallRejected) as rejected:
        await hub.events_since(0, 100_000, None)
    assert rejected.value.fields == ("Limit",)
    assert "Limit" in (rejected.value.detail or "")


async def test_a_hub_exception_and_an_unhappy_envelope_are_told_apart(hub: Hub, simulated: Simulator) -> None:
    simulated.user("demo").failures.extend([Failure(hub_exception="unwell"), Failure(detail="try again")])
    with pytest.raises(CallFailed, match="HubException: unwell"):
        await hub.latest()
    with pytest.raises(CallRejected, match="try again"):
        await hub.latest()
