"""Every shape that the vendor leaves open, each by one fault, as a client sees it over a real socket."""

# ruff: noqa: ANN401 - what the hub says is JSON

import itertools
import json
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

from gateway.simulator import CALLBACKS, UNKNOWN, Faults, Form, Simulator
from gateway.simulator.faults import FaultScope

KINDS = len(CALLBACKS)
Run = Callable[..., Awaitable[Simulator]]
Connect = Callable[..., Awaitable[Any]]
Look = Callable[..., Awaitable[tuple[list[Any], list[Any], list[Any]]]]
HEADER = ("eventId", "eventSeqId", "eventTime")


@pytest.fixture
def look(run: Run, connect: Connect) -> Look:
    """Let one event of each kind happen; return the pushes, the history's entries and the truth."""

    async def look(count: int = KINDS, **faults: Any) -> tuple[list[Any], list[Any], list[Any]]:
        hub = await run(faults=Faults(**faults), seed=7)
        client = await connect(hub)
        await client.subscribe()
        hub.user("demo").emit(count)
        records = [await client.next() for _ in range(count)]
        page = await client.call("GetEventsSince", {"SinceEventSeqId": 0, "Limit": 1000})
        truth = [json.loads(line) for line in hub.user("demo").emitted()]
        return records, folded(folded(page)["data"])["events"], truth

    return look


def folded(members: dict[str, Any]) -> dict[str, Any]:
    return {name.lower(): value for name, value in members.items()}


def pushed(records: list[Any]) -> list[Any]:
    return [record["arguments"][0] for record in records]


def payloads(truth: list[Any]) -> list[Any]:
    return [line["payload"] for line in truth]


def names(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {name for item in value.values() for name in names(item)}
    return {name for item in value for name in names(item)} if isinstance(value, list) else set()


@pytest.mark.parametrize("form", Form)
async def test_names_and_enums_are_written_in_every_form(look: Look, form: Form) -> None:
    records, entries, truth = await look(count=200, form=form)
    found = names(pushed(records))
    states = {type(payload[name]) for payload in pushed(records) for name in payload if name.lower() == "state"}
    pascal, camel = {"StrategyId", "EventSeqId"} & found, {"strategyId", "eventSeqId"} & found

    assert pushed(records) == payloads(truth)
    assert [folded(entry)["payload"] for entry in entries] == payloads(truth)
    match form:
        case Form.MIXED:
            assert any(name[0].isupper() for name in truth[0]["payload"])
            assert any(name[0].islower() for name in truth[0]["payload"])
            assert states == {int, str}
        case _:
            assert bool(pascal) is form.startswith("pascal")
            assert bool(camel) is form.startswith("camel")
            assert states == {int if form.endswith("int") else str}


async def test_decimals_may_be_texts_with_the_same_digits(run: Run) -> None:
    texts, numbers = [
        b"".join((await run(seed=7, prefill=500, faults=Faults(decimals_as_text=as_text))).user("demo").emitted())
        for as_text in (True, False)
    ]
    assert b'"maxLoss":"-1234.50"' in texts
    assert b'"IVRank_pct":"0.10"' in texts
    assert not re.search(rb'":-?[0-9]+\.', texts)
    money = re.compile(rb'"realizedPnL":"?(-?[0-9.]+)')
    assert money.findall(texts) == money.findall(numbers)
    assert {Decimal(found.decode()).as_tuple().exponent for found in money.findall(texts)} >= {-2, 0}


@pytest.mark.parametrize(
    ("zone", "digits", "pattern"),
    [
        ("utc", 7, r".*Z"),
        ("offset", 7, r".*\+05:30"),
        ("unmarked", 7, r".*T[0-9:.]+"),
        ("utc", 3, r".*:[0-9]{2}(\.[0-9]{1,3})?Z"),
        ("offset", 0, r".*:[0-9]{2}\+05:30"),
    ],
)
async def test_times_may_have_an_offset_no_zone_or_fewer_digits(
    look: Look, zone: str, digits: int, pattern: str
) -> None:
    records, _, truth = await look(count=200, time_zone=zone, time_digits=digits)
    times = re.findall(r'"([0-9]{4}-[0-9]{2}-[0-9]{2}T[^"]*)"', json.dumps(pushed(records)))
    assert len(times) > 200
    assert [time for time in times if not re.fullmatch(pattern, time)] == []
    assert pushed(records) == payloads(truth)


async def test_an_offset_changes_the_wording_and_not_the_moment(run: Run) -> None:
    plain, offset = [(await run(seed=7, faults=Faults(time_zone=zone))).user("demo") for zone in ("utc", "offset")]
    for user in (plain, offset):
        user.emit(300)
    found = [re.findall(r'"expiration":"([^"]*)"', b"".join(user.emitted()).decode()) for user in (plain, offset)]
    assert found[0]
    assert [time.replace("T00:00:00Z", "T05:30:00+05:30") for time in found[0]] == found[1]


async def test_payloads_may_have_members_that_the_reference_does_not_have(look: Look) -> None:
    records, entries, truth = await look(unknown_members=True)
    assert all(payload["extension"]["nested"]["x"] == 7 for payload in pushed(records))
    assert pushed(records) == payloads(truth) == [entry["payload"] for entry in entries]


async def test_an_event_may_be_of_a_kind_that_the_reference_does_not_have(look: Look) -> None:
    records, entries, truth = await look(count=100, unknown_kind=0.3)
    strange = [record["arguments"][0] for record in records if record["target"] == UNKNOWN]
    assert 15 < len(strange) < 50
    assert [entry["payload"] for entry in entries if entry["eventType"] == "MarginCall"] == strange
    assert [line["payload"] for line in truth if line["callback"] == UNKNOWN] == strange


@pytest.mark.parametrize("where", ["live", "history", "both"])
@pytest.mark.parametrize("name", ["id", "sequence"])
async def test_events_may_lack_their_id_or_number_live_in_history_or_in_both(look: Look, name: str, where: str) -> None:
    missing: dict[str, Any] = {f"{name}_missing": 0.5} if where != "history" else {}
    missing |= {f"history_{name}_missing": 0.5} if where != "live" else {}
    records, entries, truth = await look(count=100, **missing)
    member = {"id": "eventId", "sequence": "eventSeqId"}[name]
    live = [line["sequence"] for line, payload in zip(truth, pushed(records), strict=True) if member not in payload]
    old = [line["sequence"] for line, entry in zip(truth, entries, strict=True) if member not in entry]

    assert [member in entry for entry in entries] == [member in entry["payload"] for entry in entries]
    assert bool(live) is (where != "history")
    assert bool(old) is (where != "live")
    assert 25 < len(live or old) < 75
    assert where != "both" or live == old
    assert all(HEADER[0] in line["payload"] and HEADER[1] in line["payload"] for line in truth)


async def test_an_event_may_never_be_in_the_history(look: Look) -> None:
    records, entries, truth = await look(count=100, live_only=0.5)
    assert pushed(records) == payloads(truth)
    assert 25 < len(entries) < 75
    assert {entry["eventSeqId"] for entry in entries} < {line["sequence"] for line in truth}


DISCRIMINATORS = ("EventType", "Type", "EventName", "Callback", "CallbackName", "Method", "Name")
VALUES = {
    "model": ("OrderUpdate", "AgentStatus"),
    "model-event": ("OrderUpdateEvent", "AgentStatusEvent"),
    "callback": ("OnOrderUpdate", "OnAgentStatusChange"),
    "callback-event": ("OnOrderUpdateEvent", "OnAgentStatusChangeEvent"),
}


@pytest.mark.parametrize("discriminator", DISCRIMINATORS)
async def test_any_member_may_say_which_event_it_is(look: Look, discriminator: str) -> None:
    _, entries, _ = await look(discriminator=discriminator, form=Form.PASCAL_STRING)
    assert {entry[discriminator] for entry in entries} >= set(VALUES["model"])


@pytest.mark.parametrize(("value", "case"), list(itertools.product(VALUES, ("pascal", "camel", "lower", "upper"))))
async def test_it_may_say_so_in_any_words_and_case(look: Look, value: str, case: str) -> None:
    _, entries, _ = await look(discriminator_value=value, discriminator_case=case)
    write: dict[str, Callable[[str], str]] = {
        "pascal": str,
        "camel": lambda text: text[0].lower() + text[1:],
        "lower": str.lower,
        "upper": str.upper,
    }
    assert {entry["eventType"] for entry in entries} >= set(map(write[case], VALUES[value]))


@pytest.mark.parametrize("member", ["Payload", "Event", "Data", "Args", "Body"])
@pytest.mark.parametrize("shape", ["object", "list", "text"])
async def test_the_payload_may_have_any_name_and_be_an_object_a_list_or_a_text(
    look: Look, member: str, shape: str
) -> None:
    _, entries, truth = await look(payload_member=member, payload_as=shape)
    read: dict[str, Callable[[Any], Any]] = {"object": lambda it: it, "list": lambda it: it[0], "text": json.loads}
    assert [read[shape](entry[member.lower()]) for entry in entries] == payloads(truth)


async def test_the_payloads_members_may_stand_beside_the_discriminator(look: Look) -> None:
    _, entries, truth = await look(payload_as="flat", form=Form.CAMEL_STRING)
    for entry in entries:
        entry.pop("eventType")
    assert entries == payloads(truth)


@pytest.mark.parametrize("where", ["both", "envelope", "payload", "differing"])
async def test_id_number_and_time_may_stand_in_the_envelope_the_payload_or_both(look: Look, where: str) -> None:
    _, entries, truth = await look(header_in=where)
    for entry, payload in zip(entries, payloads(truth), strict=True):
        right = {name: payload[name] for name in HEADER}
        outer = {name: entry[name] for name in HEADER if name in entry}
        inner = {name: entry["payload"][name] for name in HEADER if name in entry["payload"]}
        assert inner == ({} if where == "envelope" else right)
        if where == "differing":
            assert set(outer) == set(HEADER)
            assert not set(outer.items()) & set(right.items())
        else:
            assert outer == ({} if where == "payload" else right)


@pytest.mark.parametrize(
    ("faults", "begins"),
    [
        ({"answer_data": "Payload"}, '{"status":0,"message":null,"error":null,"payload":{"latest'),
        ({"answer_data": "Result", "form": Form.PASCAL_STRING}, '{"Status":"Success","Message":null,"Error":null,"Res'),
        ({"answer_data": "Value"}, '{"status":0,"message":null,"error":null,"value":{"latest'),
        ({"answer_status": "number", "form": Form.PASCAL_STRING}, '{"Status":0,'),
        ({"answer_status": "name"}, '{"status":"Success",'),
        ({"answer_status": "lower"}, '{"status":"success",'),
        ({"answer_status": "digits"}, '{"status":"0",'),
        ({"answer_status": "absent"}, '{"message":null,"error":null,"data":{"latest'),
        ({"answer_bare": True}, '{"latestEventSeqId":'),
    ],
)
async def test_answers_may_come_in_another_envelope_or_in_none(
    run: Run, connect: Connect, faults: dict[str, Any], begins: str
) -> None:
    client = await connect(await run(faults=Faults(**faults)))
    assert f'"result":{begins}' in await client.answer("GetLatestEventSeqId", {})


async def pages(client: Any, at_most: int = 30) -> list[Any]:
    """Page by tokens with 4 events a page, until there is no further token."""
    found: list[Any] = []
    args: dict[str, Any] = {"SinceEventSeqId": 0, "Limit": 4, "ContinuationToken": None}
    while len(found) < at_most:
        answer = await client.call("GetEventsSince", args)
        assert answer["status"] == 0, answer
        found.append(answer["data"])
        args["ContinuationToken"] = answer["data"].get("continuationToken")
        if not args["ContinuationToken"]:
            break
    return found


@pytest.mark.parametrize(
    ("end", "last"), [("null", {"continuationToken": None}), ("empty", {"continuationToken": ""}), ("missing", {})]
)
async def test_the_last_page_may_end_in_three_ways(run: Run, connect: Connect, end: str, last: dict[str, Any]) -> None:
    client = await connect(await run(prefill=10, faults=Faults(page_end=end)))  # type: ignore[arg-type]
    *_, page = await pages(client)
    page.pop("events")
    assert page == last


async def test_a_history_may_lead_on_for_ever_with_a_fresh_token_each_time(run: Run, connect: Connect) -> None:
    client = await connect(await run(prefill=10, faults=Faults(page_end="fresh")))
    found = await pages(client)
    assert [len(page["events"]) for page in found] == [4, 4, 2, *[0] * 27]
    assert len({page["continuationToken"] for page in found}) == 30


async def test_pages_without_events_may_come_before_and_between_those_with(run: Run, connect: Connect) -> None:
    client = await connect(await run(prefill=10, faults=Faults(empty_start=1, empty_pages=2)))
    found = await pages(client)
    assert [len(page["events"]) for page in found] == [0, 4, 0, 0, 4, 0, 0, 2]
    assert [event["eventSeqId"] for page in found for event in page["events"]] == list(range(1, 11))


async def test_the_events_of_a_page_may_be_in_no_order(run: Run, connect: Connect) -> None:
    client = await connect(await run(prefill=500, faults=Faults(pages_unsorted=True)))
    args: dict[str, Any] = {"SinceEventSeqId": 0, "Limit": 250}
    first = (await client.call("GetEventsSince", args))["data"]
    numbers = [event["eventSeqId"] for event in first["events"]]
    assert numbers != sorted(numbers) == list(range(1, 251))
    second = (await client.call("GetEventsSince", {**args, "ContinuationToken": first["continuationToken"]}))["data"]
    assert sorted(event["eventSeqId"] for event in second["events"]) == list(range(251, 501))


async def test_a_continuation_token_may_expire(run: Run, connect: Connect) -> None:
    hub = await run(prefill=10, faults=Faults(page_token_seconds=60))
    client = await connect(hub)
    args: dict[str, Any] = {"SinceEventSeqId": 0, "Limit": 4}
    first = (await client.call("GetEventsSince", args))["data"]
    args["ContinuationToken"] = first["continuationToken"]
    assert (await client.call("GetEventsSince", args))["status"] == 0
    hub.patch_faults(page_token_seconds=0)
    refused = await client.call("GetEventsSince", args)
    assert (refused["status"], list(refused["error"]["validationErrors"])) == (3, ["ContinuationToken"])


async def test_integers_may_be_texts_and_nulls_left_out_in_answers_too(look: Look) -> None:
    records, entries, truth = await look(count=200, integers_as_text=True, nulls_left_out=True)
    assert pushed(records) == payloads(truth)
    assert [folded(entry)["payload"] for entry in entries] == payloads(truth)
    assert all(isinstance(payload["eventSeqId"], str) for payload in pushed(records))
    assert all(isinstance(payload.get("strategyId", ""), str) for payload in pushed(records))
    assert not re.search(r":null", json.dumps(truth, separators=(",", ":")))
    assert {type(payload["state"]) for payload in pushed(records) if "state" in payload} == {int}


async def test_an_enum_may_be_declared_in_another_order(look: Look) -> None:
    usual = [payload.get("state") for payload in pushed((await look(count=200))[0]) if "exitSignalResult" in payload]
    faults = {"enums": {"SignalState": ["On", "Off"]}}
    other = [
        payload.get("state")
        for payload in pushed((await look(count=200, **faults))[0])
        if "exitSignalResult" in payload
    ]
    assert usual
    assert other == [1 - number for number in usual]


@pytest.mark.parametrize(
    ("enums", "message"),
    [
        ({"SignalStates": ["On", "Off"]}, "enums.SignalStates: there is no such enum"),
        ({"SignalState": ["On"]}, "enums.SignalState: Off, On, in any order, would be right"),
        ({"SignalState": ["On", "On"]}, "enums.SignalState: Off, On, in any order, would be right"),
        ({"SignalState": "On"}, "Expected `array`, got `str`"),
    ],
)
def test_an_order_that_is_none_is_refused_in_words(enums: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        FaultScope().patch({"enums": enums})


def test_an_order_that_is_none_is_refused_from_the_start() -> None:
    with pytest.raises(ValueError, match="Off, On, in any order, would be right"):
        Faults(enums={"SignalState": ("On", "Up")})
