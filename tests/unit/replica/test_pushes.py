"""A record that is known at sight is what it is when it is decoded."""

from __future__ import annotations

import pytest

from gateway.events.decode import Decoder
from gateway.replica.source import push_receiver
from gateway.signalr.protocol import decode
from gateway.signalr.records import Invocation
from gateway.simulator.events import CALLBACKS, EventSource
from gateway.simulator.wire import Form, Style

DECODER = Decoder()
STYLE = Style(Form.CAMEL_INT)


def records(count: int) -> list[bytes]:
    source = EventSource(1, "acme", (101, 102))
    made = [source.make(sequence, STYLE, 639_000_000_000_000_000, None) for sequence in range(1, count + 1)]
    return [
        b'{"type":1,"target":"%b","arguments":[%b]}' % (CALLBACKS[template.callback].encode(), payload)
        for template, payload in made
    ]


def test_what_is_known_at_sight_is_what_is_decoded() -> None:
    known = 0
    for record in records(600):
        push = decode(record)
        assert isinstance(push, Invocation)
        content = push_receiver.decoded(DECODER, "acme", push.target, push.arguments)
        event = push_receiver.match(DECODER, "acme", record)
        known += event is not None
        assert event in {None, content}
    assert known > 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"]}", b"]} "),
        (b"]}", b',{"a":1}]}'),
        (b"]}", b'],"invocationId":"1"}'),
        (b"]}", b"]"),
        (b'"target":', b'"target": '),
        (b'"type":1', b'"type":2'),
        (b'"On', b'"Of'),
    ],
)
def test_anything_else_is_not_known_at_sight(old: bytes, new: bytes) -> None:
    for record in records(100):
        assert push_receiver.match(DECODER, "acme", record.replace(old, new)) is None
