from itertools import chain, pairwise

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.session.checkpoint import Checkpoint, encode_checkpoint
from gateway.session.interval_set import IntervalSet

NUMBERS = st.one_of(st.integers(1, 30), st.integers(1, 2**63 - 1))


class IntervalsAgreeWithASet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.intervals = IntervalSet()
        self.model: set[int] = set()

    @rule(number=NUMBERS)
    def add(self, number: int) -> None:
        self.intervals.add(number)
        self.model.add(number)

    @rule(first=st.integers(1, 30), length=st.integers(1, 150))
    def add_a_dense_flow(self, first: int, length: int) -> None:
        for number in range(first, first + length):
            self.intervals.add(number)
            self.model.add(number)

    @rule(number=NUMBERS)
    def drop(self, number: int) -> None:
        self.intervals.drop_through(number)
        self.model = {kept for kept in self.model if kept > number}

    @rule()
    def copy(self) -> None:
        other = self.intervals.copy()
        self.intervals.add(5)
        self.intervals = other

    @rule(first=st.integers(1, 40), length=st.integers(0, 40))
    def find_what_is_missing(self, first: int, length: int) -> None:
        missing = set(chain.from_iterable(range(a, b + 1) for a, b in self.intervals.missing(first, first + length)))
        assert missing == set(range(first, first + length + 1)) - self.model

    @invariant()
    def holds_the_same(self) -> None:
        pairs = list(self.intervals)
        assert {number for low, high in pairs for number in range(low, high + 1)} == self.model
        assert all(before[1] + 1 < after[0] for before, after in pairwise(pairs))
        assert self.intervals.highest == max(self.model, default=None)
        assert len(self.intervals) == len(pairs)
        assert all((number in self.intervals) == (number in self.model) for number in range(1, 40))

    @invariant()
    def knows_its_size_in_a_checkpoint(self) -> None:
        empty = len(encode_checkpoint(Checkpoint(verified=0)))
        real = len(encode_checkpoint(Checkpoint(verified=0, settled=tuple(self.intervals)))) - empty
        assert real <= self.intervals.size + len(',"settled":[]')
        assert self.intervals.size == IntervalSet(self.intervals).size


TestIntervals = IntervalsAgreeWithASet.TestCase
TestIntervals.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
