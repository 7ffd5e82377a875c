"""The comparison of a log with the hub's truth is itself tested: each planted defect is found and named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.verify.compare import Emitted, Logged, Verdict, compare

RAW = (
    '{"orderId":7,"state":4,"filledQty":0.10,"avgFillPrice":79228162514264337593543950335,"rejection":null,'
    '"strategyName":"Z\u00fcrich \\uD83E\\uDD8B","eventSeqId":%d,"eventTime":"2026-11-22T13:32:25.0923668Z"}'
)
VALUE = (
    '{"EventSeqId":%d,"EventTime":"2026-11-22T13:32:25.0923668Z","OrderId":7,"StrategyName":"Z\u00fcrich \U0001f98b",'
    '"State":4,"FilledQty":"0.10","AvgFillPrice":"79228162514264337593543950335","Rejection":null,"ExecPlanId":null}'
)
TRUTH = [Emitted(number, "OnOrderUpdate", RAW % number) for number in (1, 2, 3)]
LOG = [Logged("order-update", number, (VALUE % number).encode(), late=False) for number in (1, 2, 3)]


def verdict_of(log: list[Logged]) -> Verdict:
    return compare("acme", TRUTH, log)


def changed(old: str, new: str) -> list[Logged]:
    assert old.encode() in LOG[1].value
    return [LOG[0], replace(LOG[1], value=LOG[1].value.replace(old.encode(), new.encode())), LOG[2]]


def test_a_log_as_it_should_be_is_exact() -> None:
    verdict = verdict_of(LOG)

    assert verdict.exact
    assert str(verdict) == "acme: exact: 3 of 3 events once and in order"


def test_nothing_emitted_and_nothing_logged_is_exact() -> None:
    assert compare("acme", [], []).exact


@pytest.mark.parametrize(
    ("log", "fault", "message"),
    [
        ([LOG[0], LOG[2]], "lost", "acme: NOT exact: 1 lost (2)"),
        ([*LOG, LOG[0]], "repeated", "acme: NOT exact: 1 repeated (1)"),
        ([LOG[1], LOG[0], LOG[2]], "out_of_order", "acme: NOT exact: 1 out of order (1)"),
        ([*LOG, replace(LOG[0], sequence=9)], "unexpected", "acme: NOT exact: 1 unexpected (order-update 9)"),
        ([*LOG, replace(LOG[0], sequence=None)], "unexpected", "acme: NOT exact: 1 unexpected (order-update None)"),
        (
            [replace(LOG[0], kind="leg-update"), *LOG[1:]],
            "altered",
            "1: one of order-update is on the topic leg-update",
        ),
        (changed("7", "8"), "altered", "2: .OrderId: '7' became '8'"),
        (changed('"0.10"', '"0.1"'), "altered", "2: .FilledQty: '0.10' became '0.1'"),
        (changed("543950335", "543950336"), "altered", "2: .AvgFillPrice"),
        (changed("0923668Z", "092366Z"), "altered", "2: .EventTime"),
        (changed("Z\u00fcrich", "Zurich"), "altered", "2: .StrategyName"),
        (changed(',"OrderId":7', ""), "altered", "2: .orderId is missing"),
        (changed("null", "0"), "altered", "2: .Rejection"),
        (changed('"ExecPlanId":null', '"ExecPlanId":1'), "altered", "2: .ExecPlanId was never sent"),
        (changed("{", "["), "altered", "2: not JSON"),
    ],
)
def test_a_planted_defect_is_found_and_named(log: list[Logged], fault: str, message: str) -> None:
    verdict = verdict_of(log)

    assert not verdict.exact
    assert len(getattr(verdict, fault)) == 1
    assert message in str(verdict)


def test_only_the_first_few_of_many_faults_are_shown() -> None:
    verdict = compare("acme", [Emitted(number, "OnError", "{}") for number in range(1, 100)], [])

    assert str(verdict) == "acme: NOT exact: 99 lost (1, 2, 3, 4, 5)"


def test_what_is_marked_late_may_stand_behind_later_ones() -> None:
    verdict = verdict_of([LOG[1], replace(LOG[0], late=True), LOG[2]])

    assert verdict.exact
    assert str(verdict) == "acme: exact: 3 of 3 events once and in order, 1 of them marked late"


def _in(raw: str, value: str, callback: str = "OnLegUpdate") -> bool:
    kind = {"OnLegUpdate": "leg-update", "OnEntrySignal": "entry-signal"}[callback]
    return compare("a", [Emitted(1, callback, raw)], [Logged(kind, 1, value.encode(), late=False)]).exact


Pair = tuple[str, str]


@pytest.mark.parametrize(
    "pair",
    [
        ('{"contract":{"contractType":2}}', '{"Contract":{"ContractType":2,"Root":null}}'),
        ('{"contract":{"optionType":"put"}}', '{"Contract":{"OptionType":"Put"}}'),
        ('{"Status":"Closed"}', '{"Status":"Closed"}'),
        ('{"qty":1E+2}', '{"Qty":"100"}'),
        ('{"qty":-0.00000001}', '{"Qty":"-0.00000001"}'),
        ('{"Qty":"1.50"}', '{"Qty":"1.50"}'),
        ('{"at":"2026-11-22T14:32:25.1+01:00"}', '{"At":"2026-11-22T13:32:25.1Z"}'),
        ('{"at":"2026-11-22T13:32:25"}', '{"At":"2026-11-22T13:32:25Z"}'),
        ('{"vars":{"MaxLoss":1,"maxloss":2}}', '{"Vars":{"MaxLoss":"1","maxloss":"2"}}'),
        ('{"strategy_id":"7"}', '{"StrategyId":7}'),
        ('{"strategyId":7.0}', '{"StrategyId":7}'),
        ('{"job-id":"7"}', '{"JobId":"7"}'),
        ('{"EventId":"10F687B3C9A76CAAFD897D99FE7AD0B0"}', '{"EventId":"10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0"}'),
        ('{"contract":{"Expiration":"2026-12-18"}}', '{"Contract":{"Expiration":"2026-12-18"}}'),
        ('{"contract":{"contractType":"futures_options"}}', '{"Contract":{"ContractType":"FuturesOptions"}}'),
        ('{"contract":{"contractType":"2"}}', '{"Contract":{"ContractType":2}}'),
    ],
)
def test_what_is_the_same_in_other_words_is_exact(pair: Pair) -> None:
    assert _in(*pair)


@pytest.mark.parametrize(
    "pair",
    [
        ('{"contract":{"contractType":2}}', '{"Contract":{"ContractType":"Index"}}'),
        ('{"contract":{"optionType":1}}', '{"Contract":{"OptionType":"Call"}}'),
        ('{"qty":1}', '{"Qty":"1.0"}'),
        ('{"qty":"1"}', '{"Qty":1.0}'),
        ('{"flag":true}', '{"Flag":1}'),
        ('{"strategyId":"7"}', '{"StrategyId":"7"}'),
        ('{"strategyId":7.5}', '{"StrategyId":7}'),
        ('{"strategyId":7}', '{"StrategyId":7.0}'),
        ('{"jobId":"7"}', '{"JobId":7}'),
        ('{"jobId":"7.0"}', '{"JobId":"7"}'),
        ('{"EventId":"10F687B3C9A76CAAFD897D99FE7AD0B0"}', '{"EventId":"10F687B3C9A76CAAFD897D99FE7AD0B0"}'),
        ('{"EventId":"10F687B3C9A76CAAFD897D99FE7AD0B0"}', '{"EventId":"10f687b3-c9a7-6caa-fd89-7d99fe7ad0b1"}'),
        ('{"rejection":{"code":1.50}}', '{"Rejection":{"code":"1.50"}}'),
        ('{"rejection":{"code":1.50}}', '{"Rejection":{"code":1.5}}'),
        ('{"rejection":{"code":1}}', '{"Rejection":{"Code":1}}'),
        ('{"rejection":[{"code":1}]}', '{"Rejection":[{"code":true}]}'),
        ('{"rejection":{}}', '{"Rejection":null}'),
        ('{"contract":{"contractType":"2"}}', '{"Contract":{"ContractType":"2"}}'),
        ('{"contract":{"Expiration":"2026-12-18"}}', '{"Contract":{"Expiration":"2026-12-18T00:00:00Z"}}'),
        ('{"flag":false}', '{"Flag":null}'),
        ('{"list":[1,2]}', '{"List":[2,1]}'),
        ('{"list":[1,2]}', '{"List":[1]}'),
        ('{"at":"2026-11-22T14:32:25+01:00"}', '{"At":"2026-11-22T14:32:25Z"}'),
        ('{"at":"2026-11-22T13:32:25.10Z"}', '{"At":"2026-11-22T13:32:25.1Z"}'),
        ('{"vars":{"MaxLoss":1,"maxloss":2}}', '{"Vars":{"MaxLoss":"2","maxloss":"1"}}'),
        ('{"updatedVars":{"tgt":1}}', '{"UpdatedVars":{"Tgt":"1"}}'),
        ('{"Result":{"selectedLegs":{"a":{"id":1}}}}', '{"Result":{"SelectedLegs":{"A":{"Id":1}}}}'),
    ],
)
def test_what_is_not_the_same_is_altered(pair: Pair) -> None:
    assert not _in(*pair)


def test_the_comparison_knows_neither_models_nor_session() -> None:
    from gateway.verify import compare as module  # noqa: PLC0415 - its own names are the point

    assert not [name for name in vars(module) if getattr(vars(module)[name], "__module__", "").startswith(
        ("gateway.events", "gateway.session")
    )]  # fmt: skip


def test_a_log_with_an_order_for_each_kind_alone_is_held_to_that() -> None:
    emitted = [
        Emitted(number, callback, "{}") for number, callback in ((1, "OnError"), (2, "OnLegUpdate"), (3, "OnError"))
    ]

    def logged(*numbers: int) -> list[Logged]:
        kinds = {1: "error", 2: "leg-update", 3: "error"}
        return [Logged(kinds[number], number, b"{}", late=False) for number in numbers]

    assert compare("a", emitted, logged(1, 3, 2), by_kind=True).exact
    assert compare("a", emitted, logged(1, 3, 2)).out_of_order == [2]
    assert compare("a", emitted, logged(3, 2, 1), by_kind=True).out_of_order == [1]


SIGNAL = '{"state":%s,"result":{"vars":{"optionType":1},"leg":{"optionType":%s}}}'
NAMED = {"SignalState": ["Off", "On"], "OptionType": ["Put", "Call"]}


@pytest.mark.parametrize(
    ("hub", "log", "named", "exact"),
    [
        (("1", "0"), ("1", "0"), {}, True),
        (("1", "0"), ('"On"', '"Call"'), {}, False),  # nobody said so
        (("1", "0"), ('"On"', '"Put"'), NAMED, True),
        (("1", "0"), ("1", '"Put"'), NAMED, False),
        (("1", "0"), ('"Off"', '"Put"'), NAMED, False),
        (("7", "0"), ("7", '"Put"'), NAMED, True),  # beyond the list
        (("1", "0"), ('"1"', "0"), {}, False),
        (('"on"', '"Put"'), ('"On"', '"Put"'), {}, True),
        (('"On"', '"Put"'), ('"Off"', '"Put"'), NAMED, False),
    ],
)
def test_an_enum_s_number_is_a_name_only_where_the_operator_says_so(
    hub: tuple[str, str], log: tuple[str, str], named: dict[str, list[str]], exact: bool
) -> None:
    value = SIGNAL.replace("state", "State").replace('"optionType":1', '"optionType":"1"') % log
    logged = [Logged("entry-signal", 1, value.encode(), late=False)]
    assert compare("acme", [Emitted(1, "OnEntrySignal", SIGNAL % hub)], logged, enums=named).exact is exact
