"""What the numbers of the hub's enums mean is the operator's to say: until then they are published as they came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.control_client import control_of
from tests.support.gateway_process import House, house, until

MEANS = ["Off", "On"]
"""How the simulated hub declares its SignalState; C# authors usually do so, the vendor's page names them otherwise."""


async def signals(here: House) -> dict[int, Any]:
    """Return the state of each signal in the log, by its sequence."""
    values = [json.loads(found.value) for found in await here.log() if "-signal." in found.subject]
    return {value["EventSeqId"]: value["State"] for value in values}


async def test_numbers_stay_until_the_operator_names_them_and_verify_knows(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1, prefill=200) as here:
        gateway = await here.gateway()
        await here.settled(200)
        came = {
            event.sequence: json.loads(event.payload)["state"]
            for event in (await here.truth())[here.accounts[0]]
            if "Signal" in event.callback
        }
        assert set(came.values()) == {0, 1}
        assert await signals(here) == came
        faults = f"PATCH /users/{here.accounts[0]}/faults"
        await here.ask(faults, max_events_limit=70)  # fewer than check asks for at first
        check = await here.start("check")
        assert await check.ended() == 0
        await here.ask(faults, max_events_limit=None)
        assert "published as numbers, since hub.enums does not name them: AgentConnector, " in check.stdout
        assert "SignalState" in check.stdout
        gateway.kill()

        plain = here.config.read_text()
        here.config.write_text(plain.replace("hub: {", f"hub: {{enums: {{SignalState: {json.dumps(MEANS)}}}, "))
        await here.gateway()
        before = max((await here.latest()).values())
        await here.emit(200, 1_000)
        await here.settled(400)
        named = {sequence: state for sequence, state in (await signals(here)).items() if sequence > before}
        truth = {
            event.sequence: json.loads(event.payload)["state"]
            for event in (await here.truth())[here.accounts[0]]
            if "Signal" in event.callback and event.sequence > before
        }
        assert named == {sequence: MEANS[number] for sequence, number in truth.items()}
        verify = await here.start("verify", "--since", str(before))
        assert await verify.ended() == 0, verify.stdout
        here.config.write_text(plain)
        verify = await here.start("verify", "--since", str(before))
        assert await verify.ended() == 1
        assert f"{len(named)} altered" in verify.stdout


async def test_a_hub_of_other_serializer_options_is_published_exactly(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1) as here:
        account = here.accounts[0]
        options: dict[str, object] = {"integers_as_text": True, "decimals_as_text": True, "nulls_left_out": True}
        await here.ask(f"PATCH /users/{account}/faults", **options, enums={"SignalState": ["On", "Off"]})
        await here.emit(100, 1_000)  # history
        control = await control_of(await here.gateway(), here.http)
        await control.ready()
        await control.live(here.accounts)
        await here.emit(100, 1_000)  # live
        await here.settled(200)
        verify = await here.start("verify")
        assert await verify.ended() == 0, verify.stdout
        assert f"{account}: exact: 200 of 200 events once and in order" in verify.stdout
        truth = {
            event.sequence: json.loads(event.payload)["state"]
            for event in (await here.truth())[account]
            if "Signal" in event.callback
        }
        assert await signals(here) == truth

        async def is_reported() -> bool:
            enums = (await control.accounts())[account]["observed"]["enums"]
            return "numbers" in enums["forms"] and "SignalState" in enums["unnamed"]

        await until(is_reported, "the API says how the hub writes enums")
