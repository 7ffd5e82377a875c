"""What is settled for an account, as it is committed together with the events that it covers.

Everything up to `verified` is settled, and the history there is old enough to be final. Above it single
sequences are settled, kept as intervals. The anchor is what the hub's history must begin with when it is
read again from just before `verified`: if it does not, this is another history, or one with a hole.

The format carries a version. This release reads and writes version 1; one that it does not know is
refused, never overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Final

import msgspec

from gateway.errors import GatewayError

VERSION: Final = 1


class CheckpointUnreadable(GatewayError):
    """A checkpoint was written by a later release, or is no checkpoint."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """The last verified event, as the hub's history must show it again."""

    sequence: int
    id: str | None
    """EventId; None where the hub gave none, then only the sequence is compared."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is settled for one account."""

    verified: int
    anchor: Anchor | None = None
    """None until the first event is verified, or where the account began at the hub's latest."""
    settled: tuple[tuple[int, int], ...] = ()
    """Inclusive intervals of sequences above `verified` that are published, filtered or dead-lettered."""
    identities: tuple[str, ...] = field(default=(), repr=False)
    """Digests of the last identities published, oldest first: what an event without a sequence is known by."""
    incarnation: int = 1
    """Rises by one when an operator declares the hub's history to be another one."""


class _Wire(msgspec.Struct):
    version: int
    verified: int
    incarnation: int
    anchor: tuple[int, str | None] | None
    settled: list[int]
    """Gap before and length of each interval in turn, counted from `verified`: a few digits each."""
    identities: str
    """16 hexadecimal digits each, in one string."""


_DIGITS: Final = 16
_decode = msgspec.json.Decoder(_Wire).decode


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Give the bytes to commit: JSON."""
    bounds = [checkpoint.verified, *chain.from_iterable((low, high + 1) for low, high in checkpoint.settled)]
    return msgspec.json.encode(
        _Wire(
            version=VERSION,
            verified=checkpoint.verified,
            incarnation=checkpoint.incarnation,
            anchor=(checkpoint.anchor.sequence, checkpoint.anchor.id) if checkpoint.anchor else None,
            settled=[after - before for before, after in pairwise(bounds)],
            identities="".join(checkpoint.identities),
        )
    )


def decode_checkpoint(value: bytes) -> Checkpoint:
    """Read what `encode_checkpoint` gave; raises CheckpointUnreadable."""
    try:
        wire = _decode(value)
    except msgspec.MsgspecError as error:
        raise CheckpointUnreadable(f"not a checkpoint of version {VERSION}: {error}: {value[:200]!r}") from error
    if wire.version != VERSION:
        raise CheckpointUnreadable(
            f"the checkpoint has version {wire.version}, this release reads version {VERSION}: "
            "run the release that wrote it"
        )
    settled, at = [], wire.verified
    for gap, length in zip(wire.settled[::2], wire.settled[1::2], strict=True):
        settled.append((at + gap, at + gap + length - 1))
        at += gap + length
    ids = wire.identities
    return Checkpoint(
        verified=wire.verified,
        anchor=Anchor(*wire.anchor) if wire.anchor else None,
        settled=tuple(settled),
        identities=tuple(ids[start : start + _DIGITS] for start in range(0, len(ids), _DIGITS)),
        incarnation=wire.incarnation,
    )
