"""The envelope in every form that the contract leaves open, and in forms that make no sense."""

from typing import Any

import pytest

from gateway.errors import CallFailed, CallRejected
from gateway.hub.methods import EventsPage, Hub, Latest, SubscriptionAnswer, read_envelope


class Answers:
    """A connection that gives one answer and remembers what was asked."""

    def __init__(self, answer: str) -> None:
        self._answer = answer.encode()
        self.asked: list[tuple[str, dict[str, object]]] = []

    async def call(self, method: str, argument: dict[str, object]) -> bytes:
        self.asked.append((method, argument))
        return self._answer

    def shown(self, text: str) -> str:
        return text.replace("the-key", "…")


def hub(answer: str) -> Hub:
    connection: Any = Answers(answer)
    return Hub(connection)


PAGE = '{"Events":[{"a": 0.10}, 7],"ContinuationToken":"t"}'


@pytest.mark.parametrize(
    "answer",
    [
        PAGE,
        '{"events":[{"a": 0.10}, 7],"continuationToken":"t"}',
        '{"EVENTS":[{"a": 0.10}, 7],"continuationtoken":"t"}',
        '{"Status":null,"Events":[{"a": 0.10}, 7],"ContinuationToken":"t"}',
        '{"Status":0,"Events":[{"a": 0.10}, 7],"ContinuationToken":"t"}',
        *[f'{{"{name}":{PAGE}}}' for name in ("Data", "data", "Payload", "Result", "value")],
        *[
            f'{{"Status":{status},"Error":null,"Data":{PAGE}}}'
            for status in ("0", "0.0", '"0"', '"0.0"', '"Success"', '"SUCCESS"', "null")
        ],
        *[f'{{"Error":{error},"Data":{PAGE}}}' for error in ("null", '""', "{}", "[]", '{"Code":null,"Detail":""}')],
        f'{{"status":0,"message":null,"error":null,"data":{PAGE},"traceId":"x"}}',
        f'{{"Data":null,"Payload":{PAGE},"Status":0}}',
    ],
)
async def test_a_page_is_read_in_every_plausible_form(answer: str) -> None:
    assert await hub(answer).events_since(0, 2, None) == EventsPage([b'{"a": 0.10}', b"7"], "t")


@pytest.mark.parametrize("token", ["", ',"ContinuationToken":null', ',"ContinuationToken":""'])
async def test_no_token_is_no_token_however_it_is_said(token: str) -> None:
    page = await hub(f'{{"Status":0,"Data":{{"Events":[]{token}}}}}').events_since(0, 1, None)
    assert page == EventsPage([], None)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("null", "is not an object"),
        ("[]", "is not an object"),
        ('"text"', "is not an object"),
        ("{}", "no Status and no data, only nothing"),
        ('{"Status":0}', "Status 0 and no data, only status"),
        ('{"Status":"Success","Data":null,"Message":null}', "Status Success and no data, only data, message, status"),
        ('{"Status":0,"Data":[]}', "the result's data is not an object"),
        ('{"Status":0,"Data":{}}', "has no Events, only nothing"),
        ('{"Status":0,"Data":{"Events":null}}', "Events: Expected `array`, got `null`"),
        ('{"Status":0,"Data":{"Events":{}}}', "Events: Expected `array`, got `object`"),
        ('{"Status":0,"Data":{"Events":[],"ContinuationToken":7}}', "ContinuationToken: Expected `str | null`"),
        ('{"Status":0,"status":0,"Data":{"Events":[]}}', "differ only in their spelling: Data, Status, status"),
        ('{"Data":{"Events":[],"events":[1]}}', "differ only in their spelling: Events, events"),
        ('{"Data":' + '{"a":' * 5000 + "1" + "}" * 5001, "has no Events"),
        ('{"Status":0,"Data":{"Events":[NaN}}', "is not an object"),
    ],
)
async def test_an_answer_that_makes_no_sense_fails_the_call_in_words(answer: str, message: str) -> None:
    with pytest.raises(CallFailed) as failed:
        await hub(answer).events_since(0, 1, None)
    assert message in str(failed.value)
    assert str(failed.value).startswith("GetEventsSince: ")
    assert len(str(failed.value)) < 600


@pytest.mark.parametrize(
    ("answer", "status", "code", "detail", "fields"),
    [
        ('{"Status":3,"Error":null,"Data":null}', "3", None, None, ()),
        ('{"Status":"Conflict","Message":"twice"}', "Conflict", None, "twice", ()),
        ('{"status":"DuplicateRequest","error":"words"}', "DuplicateRequest", None, "words", ()),
        ('{"Status":4,"Error":{"Code":"C","Detail":"D"},"Message":"M"}', "4", "C", "D", ()),
        ('{"Status":4,"Error":{"code":7},"Message":"M"}', "4", "7", "M", ()),
        (
            '{"Status":3,"Error":{"Detail":"d","ValidationErrors":{"Limit":["too big"],"X":[]}}}',
            *("3", None, "d", ("Limit", "X")),
        ),
        (
            '{"Status":3,"Error":{"Detail":"d","ValidationErrors":[{"Field":"Limit"},{"propertyName":"X"},"words",{}]}}',
            *("3", None, "d", ("Limit", "X")),
        ),
        ('{"Status":3,"Error":{"ValidationErrors":["Limit is too big"]}}', "3", None, "['Limit is too big']", ()),
        ('{"Error":{"Code":"C","Detail":"no status"}}', "missing", "C", "no status", ()),
        ('{"Error":{"Code":"C","Detail":"d"},"Data":{"Events":[]}}', "missing", "C", "d", ()),
        ('{"Error":"words","Events":[]}', "missing", None, "words", ()),
        ('{"Status":null,"Error":{"Detail":"d"},"Data":{"Events":[]}}', "missing", None, "d", ()),
        ('{"Status":true,"Data":{"Events":[]}}', "True", None, None, ()),
        ('{"Status":5,"Events":[]}', "5", None, None, ()),
    ],
)
def test_a_status_that_is_not_success_rejects_the_call(
    answer: str, status: str, code: str | None, detail: str | None, fields: tuple[str, ...]
) -> None:
    with pytest.raises(CallRejected) as rejected:
        read_envelope("M", answer.encode(), "Events")
    found = rejected.value
    assert (found.status, found.code, found.detail, found.fields) == (status, code, detail, fields)


@pytest.mark.parametrize("sequence", ["17", '"17"', "17.0", '"17.0"'])
async def test_a_sequence_may_be_a_number_or_a_text(sequence: str) -> None:
    answer = (
        f'{{"Status":0,"Data":{{"LatestEventSeqId":{sequence},"SnapshotTime":"2026-11-22T13:32:24.8543330+01:00"}}}}'
    )
    assert await hub(answer).latest() == Latest(17, "2026-11-22T12:32:24.8543330Z")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (
            '"LatestEventSeqId":9223372036854775808,"SnapshotTime":"2026-11-22T13:32:24Z"',
            "to 9223372036854775807",
        ),
        ('"LatestEventSeqId":1e400,"SnapshotTime":"2026-11-22T13:32:24Z"', "LatestEventSeqId: "),
        ('"LatestEventSeqId":-1,"SnapshotTime":"2026-11-22T13:32:24Z"', "an integer from 0 to"),
        ('"LatestEventSeqId":null,"SnapshotTime":"2026-11-22T13:32:24Z"', "is b'null': an integer, or a text with one"),
        ('"LatestEventSeqId":1', "has no SnapshotTime, only latesteventseqid"),
        ('"LatestEventSeqId":1,"SnapshotTime":"yesterday"', "SnapshotTime 'yesterday' is no time"),
        ('"LatestEventSeqId":1,"SnapshotTime":7', "SnapshotTime: Expected `str`"),
    ],
)
async def test_a_latest_that_is_none_fails_the_call(payload: str, message: str) -> None:
    with pytest.raises(CallFailed) as failed:
        await hub(f'{{"Status":0,"Data":{{{payload}}}}}').latest()
    assert message in str(failed.value)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ('"SuccessfulStrategies":[1,2],"FailedStrategies":[3]', SubscriptionAnswer((1, 2), (3,))),
        ('"successfulStrategies":[1,"2"]', SubscriptionAnswer((1, 2), ())),
        ('"SuccessfulStrategies":null,"FailedStrategies":null', SubscriptionAnswer((), ())),
        ('"FailedStrategies":[3]', SubscriptionAnswer((), (3,))),
    ],
)
async def test_a_subscription_may_leave_out_what_is_empty(payload: str, expected: SubscriptionAnswer) -> None:
    assert await hub(f'{{"Status":0,"Data":{{{payload}}}}}').subscribe(None) == expected
    assert await hub(f"{{{payload}}}").unsubscribe([1]) == expected


async def test_each_method_asks_as_recorded() -> None:
    connection: Any = Answers(
        '{"LatestEventSeqId":1,"SnapshotTime":"2026-11-22T13:32:24Z","Events":[],"FailedStrategies":[]}'
    )
    asking = Hub(connection)
    await asking.latest()
    await asking.subscribe(None)
    await asking.unsubscribe((1, 2))
    await asking.events_since(7, 9, "t")
    assert connection.asked == [
        ("GetLatestEventSeqId", {}),
        ("SubscribeToStrategies", {"Strategies": None}),
        ("UnsubscribeFromStrategies", {"Strategies": [1, 2]}),
        ("GetEventsSince", {"SinceEventSeqId": 7, "Limit": 9, "ContinuationToken": "t"}),
    ]


@pytest.mark.parametrize("bad", ["NaN", '"\\ud800"', '{"a":' * 5000 + "1" + "}" * 5000])
async def test_one_event_that_is_no_json_does_not_spoil_its_page(bad: str) -> None:
    answer = f'{{"Status":0,"Data":{{"Events":[{{"a":1}},{bad},{{"b":2}}],"ContinuationToken":"t"}}}}'
    page = await hub(answer).events_since(0, 10, None)
    assert page.envelopes == [b'{"a":1}', bad.encode(), b'{"b":2}']
    assert page.token == "t"


@pytest.mark.parametrize(
    "answer",
    [
        '{"Status":1,"Error":{"Code":"the-key","Detail":"the-key is unknown","ValidationErrors":{"the-key":["x"]}}}',
        '["the-key"]',
        '{"Status":"the-key"}',
    ],
)
async def test_a_key_that_the_hub_quotes_is_not_repeated(answer: str) -> None:
    with pytest.raises((CallRejected, CallFailed)) as caught:
        await hub(answer).latest()
    assert "the-key" not in f"{caught.value!r} {vars(caught.value)}"
    assert "…" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "spelled"),
    [
        (("latestEventSeqId", "snapshotTime"), {"SinceEventSeqId": 7, "Limit": 2, "ContinuationToken": "t"}),
        (("latest_event_seq_id", "snapshot_time"), {"Since_Event_Seq_Id": 7, "Limit": 2, "Continuation_Token": "t"}),
        (("LATEST-EVENT-SEQ-ID", "SNAPSHOT-TIME"), {"Since-Event-Seq-Id": 7, "Limit": 2, "Continuation-Token": "t"}),
    ],
)
async def test_arguments_are_spelled_by_the_naming_policy_of_the_results(
    names: tuple[str, str], spelled: dict[str, object]
) -> None:
    """.NET reads names in any letter case, but not without what its policy puts between words."""
    latest, time = names
    answers = Answers(f'{{"data":{{"{latest}":"9","{time}":"2026-11-22T13:32:24Z","events":[]}}}}')
    connection: Any = answers
    asked = Hub(connection)
    assert (await asked.latest()).sequence == 9
    await asked.events_since(7, 2, "t")
    assert answers.asked[-1] == ("GetEventsSince", spelled)


async def test_the_largest_sequence_is_read_exactly_in_each_form() -> None:
    for largest in ("9223372036854775807", '"9223372036854775807"', "9223372036854775807.0"):
        answer = f'{{"latestEventSeqId":{largest},"snapshotTime":"2026-11-22T13:32:24Z"}}'
        assert (await hub(answer).latest()).sequence == 2**63 - 1
