"""Raw bytes that the hub is made to say, and users whose keys are another's."""

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.simulator import Faults, Simulator

Run = Callable[..., Awaitable[Simulator]]
Connect = Callable[..., Awaitable[Any]]
Ask = Callable[..., Awaitable[Any]]
ALL = {"SinceEventSeqId": 0, "Limit": 1000}


def truth(hub: Simulator) -> list[Any]:
    return [json.loads(line) for line in hub.user("demo").emitted()]


async def test_any_bytes_are_pushed_as_a_callbacks_argument(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run(prefill=2)
    client = await connect(hub)
    await client.subscribe()
    answer = await ask(hub, "POST /users/demo/inject", text='{"x": NaN}', callback="OnError")
    assert await client.record() == '{"type":1,"target":"OnError","arguments":[{"x": NaN}]}'
    assert answer["sequence"] == 3
    assert len((await client.call("GetEventsSince", ALL))["data"]["events"]) == 2


async def test_bytes_that_are_no_text_are_pushed_as_they_are(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run()
    client = await connect(hub)
    await client.subscribe()
    raw = b'{"name":"\xff\xc0"}'
    await ask(hub, "POST /users/demo/inject", base64=base64.b64encode(raw).decode())
    hub.drop("demo", "cut")
    assert base64.b64decode(truth(hub)[-1]["raw"]) == raw


async def test_a_whole_record_is_pushed_as_it_is(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run()
    client = await connect(hub)
    await client.subscribe()
    await ask(hub, "POST /users/demo/inject", text='{"type":1,"arguments":7}', what="record")
    assert await client.record() == '{"type":1,"arguments":7}'


async def test_number_id_and_time_are_filled_in_and_the_next_number_follows(
    run: Run, connect: Connect, ask: Ask
) -> None:
    hub = await run(prefill=2)
    client = await connect(hub)
    await client.subscribe()
    text = '{"eventSeqId":"$SEQUENCE","eventId":"$ID","eventTime":"$TIME"}'
    await ask(hub, "POST /users/demo/inject", text=text, history="payload")
    (payload,) = await client.pushes(1)
    hub.user("demo").emit(1)
    assert payload["eventSeqId"] == "3"
    assert len(payload["eventId"]) == 36
    assert (await client.pushes(1))[0]["eventSeqId"] == 4
    entries = (await client.call("GetEventsSince", ALL))["data"]["events"]
    assert [entry["eventSeqId"] for entry in entries] == [1, 2, 3, 4]
    assert entries[2]["payload"] == payload
    assert entries[2]["eventId"] == payload["eventId"]


@pytest.mark.parametrize(
    ("shape", "payload"), [("object", [1, 2]), ("list", [[1, 2]]), ("text", "[1,2]"), ("flat", [1, 2])]
)
async def test_in_the_history_bytes_are_wrapped_as_the_faults_say(
    run: Run, connect: Connect, ask: Ask, shape: str, payload: object
) -> None:
    hub = await run(faults=Faults(payload_as=shape, discriminator="Type"))  # type: ignore[arg-type]
    await ask(
        hub, "POST /users/demo/inject", text="[1,2]", push=False, history="payload", callback="OnAgentStatusChange"
    )
    (entry,) = (await (await connect(hub)).call("GetEventsSince", ALL))["data"]["events"]
    assert (entry["type"], entry["eventSeqId"], entry["payload"]) == ("AgentStatus", 1, payload)


async def test_a_whole_entry_of_the_history_is_given_as_it_is(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run()
    await ask(hub, "POST /users/demo/inject", text='{"kind":7,"n":$SEQUENCE}', push=False, history="envelope")
    assert '"events":[{"kind":7,"n":1}]' in await (await connect(hub)).answer("GetEventsSince", ALL)


async def test_an_injected_event_stands_at_its_number_or_behind_all_without_one(
    run: Run, connect: Connect, ask: Ask
) -> None:
    hub = await run(prefill=2, faults=Faults(sequence_step=1))
    await ask(hub, "POST /users/demo/inject", text='"a"', push=False, history="payload", sequence=10)
    hub.user("demo").emit(1)
    await ask(hub, "POST /users/demo/inject", text='"b"', push=False, history="payload", sequence=5)
    answer = await ask(hub, "POST /users/demo/inject", text='"c"', push=False, history="payload", sequence="none")
    hub.user("demo").emit(1)

    entries = (await (await connect(hub)).call("GetEventsSince", ALL))["data"]["events"]
    assert answer["sequence"] is None
    assert [entry.get("eventSeqId") for entry in entries] == [1, 2, 5, 10, 11, None, 12]
    assert [entry["payload"] for entry in entries if isinstance(entry["payload"], str)] == ["b", "a", "c"]
    assert [line["sequence"] for line in truth(hub)] == [1, 2, 5, 10, 11, None, 12]


async def test_the_truth_has_what_was_injected_and_how_it_was_shown(run: Run, ask: Ask) -> None:
    hub = await run(prefill=1)
    await ask(hub, "POST /users/demo/inject", text="7", callback="OnError", history="payload")
    assert truth(hub)[1] == {
        "sequence": 2,
        "callback": "OnError",
        "raw": base64.b64encode(b"7").decode(),
        "pushed": True,
        "history": "payload",
    }


async def test_what_was_injected_can_be_of_5_megabytes(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run()
    await ask(hub, "POST /users/demo/inject", text=json.dumps("x" * 5_000_000), history="payload", push=False)
    (entry,) = (await (await connect(hub)).call("GetEventsSince", ALL))["data"]["events"]
    assert len(entry["payload"]) == 5_000_000


async def test_stragglers_stay_hidden_when_something_is_put_before_them(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run(prefill=4, faults=Faults(straggle=1, straggle_seconds=60, sequence_step=1))
    hub.patch_faults(straggle=0)
    hub.user("demo").emit(1)
    await ask(hub, "POST /users/demo/inject", text="1", push=False, history="payload", sequence=2)
    client = await connect(hub)
    entries = (await client.call("GetEventsSince", ALL))["data"]["events"]
    assert [entry["eventSeqId"] for entry in entries] == [2, 5]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "1", "base64": "MQ=="},
        {"base64": "?"},
        {"text": "1", "sequence": 0},
        {"text": "1", "sequence": "x"},
    ],
)
async def test_an_injection_that_makes_no_sense_is_told_why(run: Run, ask: Ask, body: dict[str, Any]) -> None:
    assert (await ask(await run(), "POST /users/demo/inject", 400, **body))["error"]


async def test_a_key_may_come_to_be_another_users(run: Run, connect: Connect, ask: Ask) -> None:
    hub = await run(users={"demo": "demo-key", "other": "other-key"})
    hub.user("demo").emit(3)
    before = await connect(hub)
    assert await ask(hub, "POST /swap", users=["demo", "other"]) == {"swapped": ["demo", "other"]}
    after, others = await connect(hub), await connect(hub, key="other-key")
    latest = [
        (await one.call("GetLatestEventSeqId", {}))["data"]["latestEventSeqId"] for one in (before, after, others)
    ]
    assert latest == [3, 0, 3]
    await ask(hub, "POST /swap", 404, users=["demo", "nobody"])
