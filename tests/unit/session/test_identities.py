from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.session.dedup_window import DedupWindow, DigestRing, digest8

LIMIT = 4
steps_ = st.lists(st.tuples(st.sampled_from(["publish", "see"]), st.sampled_from("abcdefgh")), max_size=40)
digests = st.text("ab", min_size=8, max_size=8).map(str.encode)
"""Digests of two letters: where one ends and the next begins, another one stands by chance."""


@given(steps_, st.booleans())
def test_what_was_seen_last_is_remembered_and_nothing_else(steps: list[tuple[str, str]], sequenced: bool) -> None:
    memory = DedupWindow(b"", b"", LIMIT, LIMIT)
    model: list[str] = []
    for step, identity in steps:
        knows = identity in model
        assert memory.has_seen(identity) == knows
        if knows:
            model.remove(identity)
            model.append(identity)
        elif step == "publish":
            memory.on_queued(identity, sequenced=sequenced)
            memory.on_taken(identity, sequenced=sequenced)
            model = [*model, identity][-LIMIT:]
        assert memory.knows_unsequenced == (bool(model) and not sequenced)
    kept = b"".join(map(digest8, model))
    assert (memory.sequenced(), memory.unsequenced()) == ((kept, b"") if sequenced else (b"", kept))


def test_of_a_batch_of_more_than_are_remembered_the_last_are_kept() -> None:
    memory = DedupWindow(b"".join(map(digest8, "xyz")), b"", LIMIT, LIMIT)
    for identity in "abcdef":
        memory.on_queued(identity, sequenced=True)
        memory.on_taken(identity, sequenced=True)
    assert memory.sequenced() == b"".join(map(digest8, "cdef"))
    assert not memory.has_all


def test_nothing_without_a_sequence_is_known_once_its_sequence_is() -> None:
    memory = DedupWindow(b"", b"", LIMIT, LIMIT)
    memory.on_queued("a", sequenced=False)
    assert memory.knows_unsequenced  # it is about to be published
    memory.on_taken("a", sequenced=False)
    assert memory.knows_unsequenced
    assert DedupWindow(b"", memory.unsequenced(), LIMIT, LIMIT).knows_unsequenced
    assert memory.claim("a")
    memory.on_claimed("a")
    assert not memory.knows_unsequenced


@given(st.lists(digests, max_size=40))
def test_a_ring_knows_the_last_that_were_appended(appended: list[bytes]) -> None:
    ring = DigestRing(b"", LIMIT)
    model: list[bytes] = []
    for digest in appended:
        assert ring.discard(digest) == (digest in model)
        ring.append(digest)
        model = [*(one for one in model if one != digest), digest][-LIMIT:]
    assert ring.bytes == b"".join(model)


def test_what_is_not_at_its_place_is_not_found() -> None:
    ring = DigestRing(b"aaaabbbb" + b"bbbbaaaa", LIMIT)

    assert b"bbbbbbbb" not in ring
    assert b"bbbbaaaa" in ring
    assert b"aaaabbbb" in ring
