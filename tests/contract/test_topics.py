"""Names that could reach further than meant are refused, and headers are as CloudEvents says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.broker.jetstream.topics import Topics, headers_of, message_of
from gateway.publication import Message
from tests.support.event_log_suite import AWKWARD

topics = Topics("meso")


@pytest.mark.parametrize("name", ["", "*", ">", "a.b", "a b", "a*", "a\r\nPUB x 0", "a\x00", "\x7f", "a\u2028b"])
def test_a_name_that_would_mean_more_than_one_subject_is_refused(name: str) -> None:
    for subject in (topics.checkpoint, lambda _, account: topics.message("x", account)):
        with pytest.raises(ValueError, match="cannot be a part of a subject"):
            subject(1, name)


@pytest.mark.parametrize("prefix", ["", "a.b", "*", "a b", "ä"])
def test_a_prefix_must_suit_streams_and_subjects(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Topics(prefix)


def test_values_are_percent_encoded_as_the_binding_says() -> None:
    headers = headers_of(Message("x", "demo", b"k", b"", {"id": 'Euro € 😀 "100 %"'}))
    assert "ce-id: Euro%20%E2%82%AC%20%F0%9F%98%80%20%22100%20%25%22\r\n" in headers


def test_a_value_cannot_bring_headers_of_its_own() -> None:
    headers = headers_of(Message("x", "demo", AWKWARD.encode(), b"", {"id": AWKWARD}))
    assert headers.count("\r\n") == 2
    assert headers.isascii()


def test_an_attribute_must_have_a_name_that_cloudevents_allows() -> None:
    with pytest.raises(ValueError, match="traceParent"):
        headers_of(Message("x", "demo", b"", b"", {"traceParent": "x"}))


text = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.binary(), st.dictionaries(st.from_regex("[a-z0-9]{1,20}", fullmatch=True), text), st.binary())
def test_a_message_survives_its_headers(key: bytes, attributes: dict[str, str], value: bytes) -> None:
    message = Message("order-update", "demo", key, value, attributes)
    lines = [line.partition(":") for line in headers_of(message).split("\r\n") if line]
    read = {name.strip(): text.strip() for name, _, text in lines}
    assert message_of(topics.message("order-update", "demo"), read, value) == message


def test_a_message_without_our_key_is_not_ours() -> None:
    assert message_of("meso.events.x.v1.demo", {"Nats-Marker-Reason": "MaxAge"}, b"") is None
