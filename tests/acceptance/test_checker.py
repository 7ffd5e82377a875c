"""The checker is itself checked: a defect that is planted must be named, else "exact" would mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.support.checker import Found, Truth, judge
from tests.support.gateway_process import ROOT, house

ACCOUNT: Final = "acme"
ORDER: Final = Truth(
    7,
    "OnOrderUpdate",
    '{"orderId":6554440,"brokerAccountId":"U1002","execPlanId":313512,"legGroupId":0,"strategyId":2,'
    '"strategyName":"Z\u00fcrich \\uD83E\\uDD8B","state":4,"filledQty":0.10,"remainingQty":null,"fillPrice":-1.50,'
    '"avgFillPrice":79228162514264337593543950335,"rejection":{"code":"201","retryable":false,"at":1.10},"later":[1.0],'
    '"eventId":"10F687B3-c9a7-6caa-fd89-7d99fe7ad0b0","eventSeqId":7,"eventTime":"2026-11-22T14:32:25.0923668+01:00"}',
)
ORDER_VALUE: Final = (
    '{"EventId":"10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0","EventSeqId":7,"EventTime":"2026-11-22T13:32:25.0923668Z",'
    '"OrderId":6554440,"BrokerAccountId":"U1002","ExecPlanId":313512,"LegGroupId":0,"StrategyId":2,'
    '"StrategyName":"Z\u00fcrich \U0001f98b","State":4,"FilledQty":"0.10","RemainingQty":null,"FillPrice":"-1.50",'
    '"AvgFillPrice":"79228162514264337593543950335","Rejection":{"code":"201","retryable":false,"at":1.10},'
    '"later":[1.0]}'
)
LEG: Final = Truth(
    8,
    "OnLegUpdate",
    '{"BrokerAccountId":"U1","PositionId":100,"PositionName":"p","StrategyId":1,"StrategyName":"s","LegId":2,'
    '"LegName":"long_call","Contract":{"contractType":2,"underlying":"SPY","optionType":0,'
    '"expiration":"2026-12-03T00:00:00","strike":4860.5},"Status":"Closed","Qty":8,'
    '"EventId":"8022f147-e5ee-15ed-a446-d2f53eb85d3b","EventSeqId":8,"EventTime":"2026-11-22T18:23:52.8Z"}',
)
LEG_VALUE: Final = (
    '{"EventId":"8022f147-e5ee-15ed-a446-d2f53eb85d3b","EventSeqId":8,"EventTime":"2026-11-22T18:23:52.8Z",'
    '"BrokerAccountId":"U1","PositionId":100,"PositionName":"p","StrategyId":1,"StrategyName":"s","LegId":2,'
    '"LegName":"long_call","Contract":{"ContractType":2,"Underlying":"SPY","Root":null,"OptionType":0,'
    '"Expiration":"2026-12-03T00:00:00Z","Strike":"4860.5","Multiplier":null},"Status":"Closed","Qty":"8",'
    '"RealizedPnL":null}'
)
VARS: Final = Truth(
    9,
    "OnAutoUpdateVarsAdjustmentCompleted",
    '{"updatedVars":{"MaxLoss":-100.10,"tgt":1E+2},"jobId":"j","strategyId":1,"strategyName":"s","positionId":5,'
    '"positionName":"p","brokerAccountId":null,"condition":"DIT > 3",'
    '"eventId":"f3e5b57c-96d3-afc1-6732-fe9cf67a564d","eventSeqId":9,"eventTime":"2026-11-22T18:23:53Z"}',
)
VARS_VALUE: Final = (
    '{"EventId":"f3e5b57c-96d3-afc1-6732-fe9cf67a564d","EventSeqId":9,"EventTime":"2026-11-22T18:23:53Z","JobId":"j",'
    '"StrategyId":1,"StrategyName":"s","PositionId":5,"PositionName":"p","BrokerAccountId":null,'
    '"Condition":"DIT > 3","UpdatedVars":{"MaxLoss":"-100.10","tgt":"100"}}'
)
TRUTH: Final = [ORDER, LEG, VARS]


def found(kind: str, sequence: int, value: str, *, id_: str, time: str, strategy: int) -> Found:
    headers = {
        "Nats-TTL": "60",
        "Gateway-Key": str(sequence),
        "ce-specversion": "1.0",
        "ce-id": id_,
        "ce-source": f"/mesolive/{ACCOUNT}",
        "ce-type": f"mesolive.{kind}.v1",
        "ce-time": time,
        "ce-datacontenttype": "application/json",
        "ce-dataschema": f"urn:mesolive:{kind}:v1",
        "ce-account": ACCOUNT,
        "ce-incarnation": "1",
        "ce-sequence": f"{sequence:020d}",
        "ce-subject": f"strategy/{strategy}",
    }
    return Found(sequence + 100, f"mesolive.events.{kind}.v1.{ACCOUNT}", headers, value.encode())


ORDER_ID, LEG_ID, VARS_ID = (
    "10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0",
    "8022f147-e5ee-15ed-a446-d2f53eb85d3b",
    "f3e5b57c-96d3-afc1-6732-fe9cf67a564d",
)
ADJUSTED: Final = "auto-update-vars-adjustment-completed"
LOG: Final = [
    found("order-update", 7, ORDER_VALUE, id_=ORDER_ID, time="2026-11-22T13:32:25.0923668Z", strategy=2),
    found("leg-update", 8, LEG_VALUE, id_=LEG_ID, time="2026-11-22T18:23:52.8Z", strategy=1),
    found(ADJUSTED, 9, VARS_VALUE, id_=VARS_ID, time="2026-11-22T18:23:53Z", strategy=1),
]
Plant = Callable[[list[Found]], list[Found]]


def faults(log: list[Found]) -> dict[str, list[str]]:
    return judge({ACCOUNT: TRUTH}, log).faults


def in_value(place: int, old: str, new: str) -> Plant:
    """Change a message's value."""

    def plant(log: list[Found]) -> list[Found]:
        assert old.encode() in log[place].value
        changed = replace(log[place], value=log[place].value.replace(old.encode(), new.encode(), 1))
        return [*log[:place], changed, *log[place + 1 :]]

    return plant


def in_header(place: int, name: str, value: str | None) -> Plant:
    """Change a header, or take it away."""

    def plant(log: list[Found]) -> list[Found]:
        headers = {key: text for key, text in log[place].headers.items() if key != name}
        changed = replace(log[place], headers=headers if value is None else {**headers, name: value})
        return [*log[:place], changed, *log[place + 1 :]]

    return plant


def test_a_log_as_it_should_be_is_exact() -> None:
    verdict = judge({ACCOUNT: TRUTH}, LOG)

    assert verdict.faults == {}
    assert (verdict.emitted, verdict.found, verdict.late) == (3, 3, 0)
    assert str(verdict) == "3 messages of 3 events, 0 late: exact"


PLANTS: Final[dict[str, tuple[Plant, str]]] = {
    "one is skipped": (lambda log: log[:1] + log[2:], "lost"),
    "the last is skipped": (lambda log: log[:-1], "lost"),
    "one is repeated": (lambda log: [*log, log[0]], "repeated"),
    "two are swapped": (lambda log: [log[1], log[0], log[2]], "out_of_order"),
    "a byte is changed": (in_value(0, "U1002", "U1003"), "altered"),
    "a letter of a name is changed": (in_value(0, '"FillPrice"', '"fillPrice"'), "altered"),
    "a decimal went through a float": (in_value(0, '"0.10"', '"0.1"'), "altered"),
    "a large decimal went through a float": (
        in_value(0, "79228162514264337593543950335", "79228162514264337593543950336"),
        "altered",
    ),
    "a decimal is a number": (in_value(0, '"-1.50"', "-1.50"), "altered"),
    "an open number went through a float": (in_value(0, '"at":1.10', '"at":1.1'), "altered"),
    "an unknown member is dropped": (in_value(0, ',"later":[1.0]', ""), "altered"),
    "an open member is renamed": (in_value(0, '"code"', '"Code"'), "altered"),
    "a null is dropped": (in_value(0, '"RemainingQty":null,', ""), "altered"),
    "a member is invented": (in_value(0, '"later"', '"more":null,"later"'), "altered"),
    "a member stands twice": (in_value(0, '"State":4', '"State":4,"State":4'), "unexpected"),
    "a time is cut to microseconds": (in_value(0, "25.0923668Z", "25.092366Z"), "altered"),
    "a time is not in UTC": (in_value(0, "13:32:25.0923668Z", "14:32:25.0923668+01:00"), "altered"),
    "an unknown enum's number became a name": (in_value(0, '"State":4', '"State":"Cancelled"'), "altered"),
    "an enum's number became a name": (in_value(1, '"ContractType":2', '"ContractType":"Options"'), "altered"),
    "an enum has another number": (in_value(1, '"OptionType":0', '"OptionType":1'), "altered"),
    "an enum's number became a text": (in_value(1, '"OptionType":0', '"OptionType":"0"'), "altered"),
    "a text lost its letters": (in_value(0, "\u00fc", "u"), "altered"),
    "a dictionary's key changed its case": (in_value(2, '"tgt"', '"Tgt"'), "altered"),
    "a dictionary lost a key": (in_value(2, ',"tgt":"100"', ""), "altered"),
    "members are reordered": (in_value(2, '"JobId":"j","StrategyId":1', '"StrategyId":1,"JobId":"j"'), "altered"),
    "the value is no JSON": (in_value(0, "{", "["), "unexpected"),
    "the key is another's": (in_header(0, "Gateway-Key", "8"), "wrong_key"),
    "the key has zeros": (in_header(0, "Gateway-Key", "07"), "wrong_key"),
    "the key is missing": (in_header(0, "Gateway-Key", None), "wrong_key"),
    "an id is another's": (in_header(0, "ce-id", LEG_ID), "wrong_headers"),
    "a header is missing": (in_header(0, "ce-time", None), "wrong_headers"),
    "the time of a header is another": (in_header(0, "ce-time", "2026-11-22T13:32:25Z"), "wrong_headers"),
    "a sequence is not padded": (in_header(0, "ce-sequence", "7"), "wrong_headers"),
    "a header is invented": (in_header(0, "ce-replayid", "1"), "wrong_headers"),
    "the topic is another kind's": (
        lambda log: [replace(log[0], subject=log[0].subject.replace("order", "leg")), *log[1:]],
        "wrong_topic",
    ),
    "the topic is another account's": (
        lambda log: [replace(log[0], subject=log[0].subject.replace(ACCOUNT, "other")), *log[1:]],
        "unexpected",
    ),
    "a dead letter stands there": (
        lambda log: [*log, replace(log[0], subject=f"mesolive.events.dead-letter.v1.{ACCOUNT}", value=b"{}")],
        "unexpected",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_defect_is_named(name: str) -> None:
    plant, fault = PLANTS[name]

    assert fault in faults(plant(list(LOG)))


def test_what_is_marked_late_may_come_late_but_only_once() -> None:
    late = in_header(0, "ce-late", "true")(list(LOG))

    assert faults([late[1], late[0], late[2]]) == {}
    assert judge({ACCOUNT: TRUTH}, [late[1], late[0], late[2]]).late == 1
    assert "repeated" in faults([late[1], late[0], late[2], late[0]])


def test_the_checker_knows_nothing_of_the_gateway() -> None:
    source = (ROOT / "tests" / "support" / "checker.py").read_text("utf-8")

    assert not [line for line in source.splitlines() if line.strip().startswith(("import gateway", "from gateway"))]


async def test_a_real_log_of_all_17_kinds_in_both_forms_is_exact_until_a_defect(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=2, prefill=60) as here:
        await here.gateway()
        await here.settled(60)
        truth, log = await here.truth(), await here.log()

    forms = {account: "EventId" in truth[account][0].payload for account in here.accounts}
    assert sorted(forms.values()) == [False, True]
    assert len({event.callback for event in truth[here.accounts[0]]}) == 17
    assert judge(truth, log).faults == {}
    place = next(place for place, one in enumerate(log) if b'"RealizedPnL":"' in one.value)
    for plant, fault in (
        (lambda log: log[:place] + log[place + 1 :], "lost"),
        (lambda log: [*log, log[place]], "repeated"),
        (lambda log: [log[-1], *log[:-1]], "out_of_order"),
        (in_value(place, '"RealizedPnL":"', '"RealizedPnL":"1'), "altered"),
        (in_header(place, "Gateway-Key", "0"), "wrong_key"),
    ):
        assert fault in judge(truth, plant(log)).faults
