"""What the docs' consumers keep of what comes late, again, or after a reset: each event once, and no older state."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.events.decode import Decoder
from gateway.events.event import Event

Consume = Callable[..., None]


def body(number: int, qty: str, time: str) -> bytes:
    """Return the value of the message of an update of order 7."""
    payload = (
        f'{{"EventId":"00000000-0000-0000-0000-{number:012}","EventSeqId":{number},"EventTime":"{time}","OrderId":7,'
        f'"StrategyId":1,"StrategyName":"S","State":1,"FilledQty":{qty}}}'
    )
    event = Decoder().push("main", "OnOrderUpdate", payload.encode())
    assert isinstance(event, Event)
    return event.body


def kafka(name: str, tmp_path: Path) -> tuple[Consume, sqlite3.Connection]:
    example: Any = importlib.import_module(f"examples.{name}")
    state = example.open_state(str(tmp_path / "state"))
    offset = 0

    def consume(number: int, qty: str, time: str, **marks: str) -> None:
        nonlocal offset
        named = {"source": "/mesolive/main", "id": f"id-{number}", "account": "main", **marks}
        headers = [(f"ce_{key}", value.encode()) for key, value in named.items()]
        record = SimpleNamespace(headers=headers, value=body(number, qty, time), topic="t", partition=0, offset=offset)
        if name.endswith("confluent"):
            record = SimpleNamespace(**{key: lambda value=value: value for key, value in vars(record).items()})
        example.apply(state, record)
        offset += 1
        assert list(state.execute("SELECT next FROM position")) == [(offset,)]

    return consume, state


def nats(tmp_path: Path) -> tuple[Consume, sqlite3.Connection]:
    example: Any = importlib.import_module("examples.nats_consumer")
    state = example.open_state(str(tmp_path / "state"))

    def consume(number: int, qty: str, time: str, **marks: str) -> None:
        named = {"source": "/mesolive/main", "id": f"id-{number}", "account": "main", **marks}
        message = SimpleNamespace(headers={f"ce-{key}": value for key, value in named.items()})
        message.data = body(number, qty, time)
        if "ce-replayid" not in message.headers and example.is_first_sight(state, message):
            example.apply(state, message)

    return consume, state


EXAMPLES = ("kafka_consumer_aiokafka", "kafka_consumer_confluent", "nats_consumer")


@pytest.fixture(params=EXAMPLES)
def consumer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Consume, Callable[[], Any]]]:
    """Yield what consumes a message, and what tells the quantity of order 7 then."""
    name = request.param
    consume, state = nats(tmp_path) if name == "nats_consumer" else kafka(name, tmp_path)
    table = "filled" if name == "nats_consumer" else "orders"

    def known() -> Any:  # noqa: ANN401 - a row
        updates = "3" if table == "filled" else "updates"
        return state.execute(f"SELECT qty, {updates} FROM {table} WHERE order_id = 7").fetchone()  # noqa: S608

    yield consume, known
    state.close()


def test_a_late_event_counts_and_takes_no_state_back(consumer: tuple[Consume, Callable[[], Any]]) -> None:
    consume, known = consumer
    consume(1, "1", "2026-01-01T12:00:01Z")
    consume(3, "3", "2026-01-01T12:00:01.3Z")
    consume(2, "2", "2026-01-01T12:00:01.25Z", late="true")
    assert known() == ("3", 3)


def test_a_late_event_that_is_newer_replaces_the_state(consumer: tuple[Consume, Callable[[], Any]]) -> None:
    consume, known = consumer
    consume(1, "1", "2026-01-01T12:00:01Z")
    consume(3, "3", "2026-01-01T12:00:02Z")
    consume(2, "2", "2026-01-01T12:00:02.0000001Z", late="true")
    assert known() == ("2", 3)


def test_what_comes_again_after_a_reset_or_in_a_replay_counts_once(
    consumer: tuple[Consume, Callable[[], Any]],
) -> None:
    consume, known = consumer
    for incarnation in ("1", "2"):
        consume(1, "1", "2026-01-01T12:00:01Z", incarnation=incarnation)
        consume(2, "2", "2026-01-01T12:00:02Z", incarnation=incarnation)
        consume(1, "1", "2026-01-01T12:00:01Z", incarnation=incarnation, replayid="r")
        assert known()[0] == "2"
    consume(3, "3", "2026-01-01T12:00:03Z", incarnation="2")
    assert known() == ("3", 3)
