"""Every code with which a broker can refuse a commit, and what it is about: only one message's content may bury it.

`nats-errors.tsv` is the list of nats-server 2.15 (server/errors.json), with what each code is about, as its source has
it where a publish is refused. `kafka-errors.tsv` is that of Kafka 4.1 (org.apache.kafka.common.protocol.Errors).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka.errors import UnknownError, for_code

from gateway.broker.jetstream.error_codes import problem_of
from gateway.broker.kafka.error_codes import problem_of as kafka_problem_of
from gateway.errors import (
    ActionRequired,
    CommitRejected,
    Fenced,
    OutcomeUnknown,
    StorageFull,
    TooManyMessages,
    Unavailable,
)

FIXTURES: Final = Path(__file__).parents[2] / "fixtures"
MEANS: Final[dict[str, type[Exception]]] = {
    "one-message": CommitRejected,
    "moved": Fenced,
    "less": TooManyMessages,
    "full": StorageFull,
    "passes": Unavailable,
    "setting": ActionRequired,
    "unknown": OutcomeUnknown,
}


def rows(name: str) -> list[Any]:
    with (FIXTURES / name).open() as file:
        return [pytest.param(row, id=row["constant"]) for row in csv.DictReader(file, delimiter="\t")]


@pytest.mark.parametrize("row", rows("nats-errors.tsv"))
def test_a_code_of_jetstream_is_about_what_the_server_means_by_it(row: dict[str, str]) -> None:
    problem = problem_of(int(row["code"]), row["description"], stream="events")
    assert type(problem) is MEANS[row["concern"]]
    assert row["code"] in str(problem)
    if row["concern"] == "setting":
        assert "Mend it: " in str(problem)
        assert "events" in str(problem)


def test_a_code_that_no_release_knows_buries_nothing() -> None:
    assert type(problem_of(19_999, "something new", stream="events")) is OutcomeUnknown


@pytest.mark.parametrize("row", rows("kafka-errors.tsv"))
def test_a_code_of_kafka_is_about_what_the_broker_means_by_it(row: dict[str, str]) -> None:
    error = for_code(int(row["code"]))
    problem = kafka_problem_of(error({"its topic"} if "AUTHORIZATION" in row["constant"] else "its words"))
    if error is UnknownError:  # aiokafka does not know the code
        assert row["concern"] != "one-message"
        assert type(problem) is Unavailable
    elif row["concern"] != "moved":  # whose the shard is, the log asks
        assert type(problem) is MEANS[row["concern"]]
