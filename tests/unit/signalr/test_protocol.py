"""The codec: every record in, whatever it holds; what cannot be decoded spoils only itself."""

import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ProtocolError
from gateway.signalr import protocol
from gateway.signalr.protocol import RecordReader
from gateway.signalr.records import Close, Completion, Invocation, Malformed, Ping, UnknownRecord


def test_an_argument_is_given_byte_for_byte_as_it_came() -> None:
    raw = b'{"type":1,"target":"T","arguments":[{"a": 0.10,"b":79228162514264337593543950335} , "\\uD83E\\uDD8B",1e-7]}'
    record = protocol.decode(raw)
    assert isinstance(record, Invocation)
    assert record.arguments == [b'{"a": 0.10,"b":79228162514264337593543950335}', b'"\\uD83E\\uDD8B"', b"1e-7"]


def test_bad_utf_8_within_an_argument_is_passed_on_for_others_to_judge() -> None:
    record = protocol.decode(b'{"type":1,"target":"T","arguments":["\xff\xfe"]}')
    assert record == Invocation("T", [b'"\xff\xfe"'])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not json",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b'{"Type":1}',
        b'{"type":"1"}',
        b'{"type":1.0,"target":"T","arguments":[]}',
        b'{"type":1}',
        b'{"type":1,"target":7,"arguments":[]}',
        b'{"type":1,"target":"T","arguments":null}',
        b'{"type":1,"target":"T","arguments":{}}',
        b'{"type":1,"target":"\xff","arguments":[]}',
        b'{"type":1,"target":"T","arguments":[1],"arguments":[2]}',
        b'{"type":1,"target":"T","arguments":[1],"type":6}',
        b'{"type":6,"type":6}',
        b'{"type":6,"more":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
        b'{"type":' + b"9" * 5_000 + b"}",
        b'{"type":3}',
        b'{"type":3,"result":1}',
        b'{"type":3,"invocationId":7,"result":1}',
        b'{"type":6}{"type":6}',
        b'\xef\xbb\xbf{"type":6}',
        b'{"type":6}\x00',
    ],
)
def test_what_is_no_record_is_malformed_and_keeps_its_bytes(raw: bytes) -> None:
    record = protocol.decode(raw)
    assert isinstance(record, Malformed)
    assert record.raw == raw
    assert record.problem


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise(raw: bytes) -> None:
    protocol.decode(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
MEMBERS = st.sampled_from(
    ["type", "target", "arguments", "invocationId", "result", "error", "allowReconnect", "item", "headers"]
)


@settings(deadline=None)
@given(st.integers(-1, 12), st.dictionaries(MEMBERS, JSON))
def test_no_member_of_a_wrong_type_raises(number: int, members: dict[str, Any]) -> None:
    raw = protocol._encode(members | {"type": number})
    record = protocol.decode(raw)
    if number not in {1, 3, 6, 7}:
        assert record == UnknownRecord(number)


@pytest.mark.parametrize("number", [2, 4, 5, 8, 9, 10, 99999999999999999999, -1])
def test_a_type_without_use_is_no_fault_whatever_its_members(number: int) -> None:
    assert protocol.decode(
        b'{"type":%d,"invocationId":5,"target":{},"item":1,"sequenceId":3}' % number
    ) == UnknownRecord(number)


def test_a_ping_and_a_close_are_known_by_their_type_whatever_their_members() -> None:
    assert protocol.decode(b'{"type":6,"error":5}') == Ping()
    assert protocol.decode(b'{"type":7,"error":5,"allowReconnect":null}') == Close()
    assert protocol.decode(b'{"type":7,"error":"why","allowReconnect":true}') == Close("why", allow_reconnect=True)


@pytest.mark.parametrize(
    "argument",
    [
        b"NaN",
        b'"\\ud800"',
        b'"\xff"',
        b'{"a":[1,{"b":"],}"}],"c":Infinity}',
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":1 "b":2}',
    ],
)
def test_one_value_that_is_no_json_spoils_only_itself(argument: bytes) -> None:
    push = protocol.decode(b'{"type":1,"target":"OnX","arguments":[%b , {"a":1}]}' % argument)
    assert push == Invocation("OnX", [argument, b'{"a":1}'])
    answer = protocol.decode(b'{"type":3,"invocationId":"12","result":{"events":[%b]}}' % argument)
    assert answer == Completion("12", b'{"events":[%b]}' % argument)


def test_an_answer_that_cannot_be_taken_apart_still_names_its_call() -> None:
    record = protocol.decode(b'{"type":3,"invocationId":"12","result":{"a":NaN}')
    assert isinstance(record, Malformed)
    assert record.id == "12"


@pytest.mark.parametrize("error", ["", ',"error":null', ',"error":""'])
def test_a_result_that_is_no_json_is_left_to_its_reader_beside_no_error(error: str) -> None:
    record = protocol.decode(b'{"type":3,"invocationId":"12","result":{"a":NaN}%b}' % error.encode())
    assert record == Completion("12", b'{"a":NaN}')


def test_a_null_result_is_a_result_and_no_result_is_none() -> None:
    assert protocol.decode(b'{"type":3,"invocationId":"1","result":null}') == Completion("1", b"null")
    assert protocol.decode(b'{"type":3,"invocationId":"1"}') == Completion("1")
    assert protocol.decode(b'{"type":3,"invocationId":"1","error":""}') == Completion("1", None, "")


def test_spaces_escapes_and_further_members_are_no_repetition() -> None:
    raw = (
        b' { "type" : 1 , "headers":{"a":"b"}, "t\\u0061rget":"Z\xc3\xbcrich", "arguments" : [ {"type":1,"type":2} ] } '
    )
    assert protocol.decode(raw) == Invocation("Zürich", [b'{"type":1,"type":2}'])


RECORDS = st.lists(st.binary(max_size=12).map(lambda raw: raw.replace(b"\x1e", b"-")), max_size=8)


@settings(deadline=None)
@given(RECORDS, st.lists(st.integers(0, 60), max_size=10))
def test_records_come_out_whole_however_they_were_split(records: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(record + b"\x1e" for record in records)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader = RecordReader()
    found = [raw for at, end in pairwise(bounds) for raw in reader.feed(stream[at:end])]
    assert found == records


def test_a_record_of_many_small_messages_takes_time_in_proportion() -> None:
    def seconds(size: int) -> float:
        reader, piece = RecordReader(), b"x" * 100
        began = time.thread_time()
        for _ in range(size // 100):
            reader.feed(piece)
        assert len(reader.feed(b"\x1e")[0]) == size
        return time.thread_time() - began

    seconds(100_000)
    small, large = (min(seconds(size) for _ in range(3)) for size in (1_000_000, 8_000_000))
    assert large < 30 * max(small, 1e-3)


@pytest.mark.parametrize(
    "messages", [[b"x" * 11], [b"x" * 11 + b"\x1e"], [b"x" * 6, b"x" * 5], [b"x" * 6, b"x" * 5 + b"\x1e"]]
)
def test_a_record_above_the_limit_is_refused_in_one_message_or_in_several(messages: list[bytes]) -> None:
    reader = RecordReader(10)
    with pytest.raises(ProtocolError, match="a record of at least 11 bytes is above the limit of 10 bytes"):
        [reader.feed(message) for message in messages]


def test_the_limit_is_for_one_record_not_for_one_message() -> None:
    assert RecordReader(10).feed((b"x" * 10 + b"\x1e") * 100) == [b"x" * 10] * 100


@pytest.mark.parametrize("raw", [b"", b"[]", b"<html>", b'{"error":5}', b'{"type":7}', b'{"type":6}', b"\xff"])
def test_what_is_no_handshake_response_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode_handshake_response(raw)


def test_a_handshake_response_accepts_or_says_why_not() -> None:
    assert protocol.decode_handshake_response(b"{}").error is None
    assert protocol.decode_handshake_response(b'{"error":"no","minorVersion":1}').error == "no"


@settings(deadline=None)
@given(st.text(), JSON)
def test_what_is_encoded_decodes_to_the_same(text: str, value: Any) -> None:  # noqa: ANN401 - any JSON
    raw = protocol.encode_invocation(text, value, id="1").removesuffix(b"\x1e")
    assert protocol.decode(raw) == Invocation(text, [protocol._encode(value)], "1")
    raw = protocol.encode_completion("1", value).removesuffix(b"\x1e")
    assert protocol.decode(raw) == Completion("1", protocol._encode(value))
    raw = protocol.encode_completion("1", error=text).removesuffix(b"\x1e")
    assert protocol.decode(raw) == Completion("1", None, text)
    raw = protocol.encode_close(text, allow_reconnect=True).removesuffix(b"\x1e")
    assert protocol.decode(raw) == Close(text, allow_reconnect=True)


def test_what_stands_between_head_and_tail_of_a_push_is_its_argument() -> None:
    raw = protocol.push_head("OnX") + b'{"a":1}' + protocol.PUSH_TAIL
    assert protocol.decode(raw) == Invocation("OnX", [b'{"a":1}'])


@pytest.mark.parametrize("id_", ["1", "4711"])
@pytest.mark.parametrize("argument", [{}, {"Strategies": [1, 2]}, {"type": 1, "text": '{"type":1,'}])
def test_an_invocation_is_given_an_id_without_being_encoded_again(id_: str, argument: dict[str, object]) -> None:
    plain = protocol.encode_invocation("GetEventsSince", argument)
    assert protocol.with_id(plain, id_) == protocol.encode_invocation("GetEventsSince", argument, id=id_)


@pytest.mark.parametrize("raw", [b'{"type":6}', b'{ "type": 6 }', b'{"type":6,"more":1}'])
def test_a_ping_is_one_however_it_is_written(raw: bytes) -> None:
    assert protocol.decode(raw) == Ping()


def test_a_ping_whose_type_stands_twice_is_none() -> None:
    assert isinstance(protocol.decode(b'{"type":6,"type":6}'), Malformed)
