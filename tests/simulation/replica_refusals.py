"""Codes with which real brokers refuse commits, dealt to sound commits of simulated shards: none may be dead-lettered.

The codes are those of the tables in `tests/fixtures`. Each becomes an error as the adapter of its broker sorts it, so
that a code that is sorted wrongly does here what it would do there.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Final

from aiokafka.errors import InvalidProducerEpoch, ProducerFenced, for_code

from gateway.broker.jetstream import error_codes as jetstream
from gateway.broker.kafka import error_codes as kafka
from gateway.broker.memory.faults import Edge
from gateway.errors import BrokerError, Fenced, OutcomeUnknown

_FIXTURES: Final = Path(__file__).parents[1] / "fixtures"
_BROKERS: Final = ("nats", "kafka")
_ONE_MESSAGE: Final = "one-message"
_SHORT: Final = (3.0, 9.0)
"""Seconds of a code about one message: what is refused with such a code for 10 s is rightly dead-lettered."""
_LONG: Final = (15.0, 35.0)
"""Seconds of other codes: long enough to bury a message, if one of them were taken for a code about one message."""


@dataclass(frozen=True, slots=True)
class Code:
    """A code of a broker."""

    broker: str
    number: int
    name: str
    concern: str
    """What it is about, as the table has it."""

    def error(self) -> BrokerError:
        """Return what the adapter of its broker makes of it; whose the shard is, the adapters ask: still this one's."""
        if self.broker == "nats":
            problem = jetstream.problem_of(self.number, self.name, stream="events")
            return OutcomeUnknown(f"{problem}, although the fence stands") if isinstance(problem, Fenced) else problem
        error = for_code(self.number)({"a topic"} if "AUTHORIZATION" in self.name else self.name)
        if isinstance(error, (ProducerFenced, InvalidProducerEpoch)):
            return OutcomeUnknown(f"{self.name}, although nobody else has claimed the shard")
        return kafka.problem_of(error)


@cache
def codes() -> dict[str, list[Code]]:
    """Return every code of both brokers, by what it is about."""
    found: defaultdict[str, list[Code]] = defaultdict(list)
    for broker in _BROKERS:
        with (_FIXTURES / f"{broker}-errors.tsv").open() as file:
            for row in csv.DictReader(file, delimiter="\t"):
                found[row["concern"]].append(Code(broker, int(row["code"]), row["constant"], row["concern"]))
    return dict(found)


class Refusing:
    """A broker that refuses some commits of a shard for a while: with one code, or with another one each time."""

    def __init__(self, dice: Random) -> None:
        """Draw the codes, how many commits are refused, and for how long."""
        self._dice = dice
        self._chance = dice.choice((0.7, 0.9))
        self._code = None if dice.random() < 0.3 else _drawn(dice, sorted(codes()))
        self.is_about_one = self._code is not None and self._code.concern == _ONE_MESSAGE
        """Whether the code is about one message."""
        self.seconds = dice.uniform(*(_SHORT if self.is_about_one else _LONG))

    def __str__(self) -> str:
        """Say what is refused with which code."""
        code = (
            "any code but those about one message"
            if self._code is None
            else f"{self._code.name} of {self._code.broker}"
        )
        return f"refuses {self._chance:.0%} of the commits with {code}"

    def strike(self, edge: Edge) -> None:
        """Refuse a commit, or not; where its outcome is unknown, it may have been stored."""
        if edge.call != "commit" or edge.when != "before" or self._dice.random() >= self._chance:
            return
        error = (self._code or _drawn(self._dice, sorted(codes().keys() - {_ONE_MESSAGE}))).error()
        if isinstance(error, OutcomeUnknown) and self._dice.random() < 0.5:
            edge.land()
        raise error


def _drawn(dice: Random, concerns: Sequence[str]) -> Code:
    """Draw a code: each concern as often as any other, though most codes are about what no commit does."""
    return dice.choice(codes()[dice.choice(concerns)])
