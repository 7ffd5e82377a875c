"""What a loss in some topics makes of the checkpoints and gaps of the accounts."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from gateway.broker.ports import Lost
from gateway.events.event import Notification
from gateway.replica.sink.store_losses import Taken, taken_back
from gateway.session.checkpoint import decode_checkpoint, encode_checkpoint, reset_checkpoint

STORED: Final = encode_checkpoint(reset_checkpoint(3, 20, None))


def taken(*lost: Lost, checkpoint: bytes = STORED) -> Taken | None:
    return taken_back({"alpha": checkpoint}, {"alpha": lost, "no checkpoint": lost}).get("alpha")


def gaps(found: Taken) -> list[tuple[int, int, int]]:
    reported = []
    for gap in found.gaps:
        assert isinstance(gap.content, Notification)
        first, last = (gap.content.detail[one] for one in ("FirstSeqId", "LastSeqId"))
        assert isinstance(first, int)
        assert isinstance(last, int)
        reported.append((gap.incarnation, first, last))
    return reported


def test_gaps_of_an_earlier_incarnation_name_what_is_lost_and_no_more() -> None:
    found = taken(Lost(1, 9), Lost(1, 3), Lost(1, 4), Lost(2, 5), Lost(2, 7))
    assert found is not None
    assert gaps(found) == [(1, 3, 4), (1, 9, 9), (2, 5, 5), (2, 7, 7)]
    assert (found.checkpoint, found.sequences) == (STORED, [])


def test_many_gaps_of_an_earlier_incarnation_are_few_messages() -> None:
    found = taken(*(Lost(1, number) for number in range(1, 5001, 2)))
    assert found is not None
    assert len(gaps(found)) == 16
    assert gaps(found)[-1] == (1, 31, 4999)


def test_a_checkpoint_that_covers_no_lost_event_is_stored_again_as_it_is() -> None:
    """Else the log would look for it at each opening: it was in a commit that nobody knew to be stored, and was not."""
    assert taken(Lost(3, 25), Lost(4, 1)) == Taken(STORED, [], [])


def test_a_checkpoint_that_cannot_be_read_is_left_alone() -> None:
    assert taken(Lost(1, 1), checkpoint=b"?") is None


def test_what_is_lost_of_the_present_incarnation_is_taken_out() -> None:
    settled = replace(decode_checkpoint(STORED), settled=((22, 24),))
    found = taken(Lost(3, 23), checkpoint=encode_checkpoint(settled))
    assert found is not None
    assert (found.sequences, found.gaps) == ([23], [])
    assert decode_checkpoint(found.checkpoint).settled == ((22, 22), (24, 24))
