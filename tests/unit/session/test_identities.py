from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.session.identities import Identities

LIMIT = 4
identities = st.text("ab", min_size=8, max_size=8).map(str.encode)
"""Digests of two letters: where one ends and the next begins, another one stands by chance."""


@given(st.lists(st.tuples(st.sampled_from(["publish", "see"]), identities), max_size=40))
def test_what_was_seen_last_is_remembered_and_nothing_else(steps: list[tuple[str, bytes]]) -> None:
    memory = Identities(b"", b"", LIMIT, LIMIT)
    model: list[bytes] = []
    for step, identity in steps:
        knows = identity in model
        assert memory.has_seen(identity) == knows
        if knows:
            model.remove(identity)
            model.append(identity)
        elif step == "publish":
            memory.queued(identity, sequenced=False)
            memory.taken(identity, sequenced=False)
            model = [*model, identity][-LIMIT:]
    assert memory.unsequenced() == b"".join(model)


def test_what_is_not_at_its_place_is_not_found() -> None:
    memory = Identities(b"aaaabbbb" + b"bbbbaaaa", b"", LIMIT, LIMIT)

    assert not memory.has_seen(b"bbbbbbbb")
    assert memory.has_seen(b"bbbbaaaa")
    assert memory.has_seen(b"aaaabbbb")
