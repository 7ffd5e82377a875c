"""What is settled for an account, as it is committed together with the events that it covers.

Everything up to `verified` is settled, and the history there is old enough to be final. Above it single sequences are
settled, kept as intervals. The anchor is the event with which the hub's history must begin when it is read again from
just before it. If it does not, this is another history, or one with a hole.

Sequences that `verified` passed without an event are kept as far as there is room: such a number was never published,
so an event that shows up under it later can be published safely.

The format carries a version. This release reads and writes version 1; it refuses an unknown version with a clear error
and never overwrites it. A checkpoint stays below 144 KiB: 64 of intervals, 24 of subscriptions, 48 of identities, 4 of
passed holes, half of what is lost, and little else.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Final

import msgspec

from gateway.errors import GatewayError
from gateway.events.event import Notification
from gateway.events.times import TICKS_PER_SECOND, ticks
from gateway.session.dedup_window import DIGEST_BYTES
from gateway.session.finality import Sighting
from gateway.session.hub_clock import Moment
from gateway.session.subscriptions import ALL, Strategies, Subscription, strategies_text
from gateway.session.types import Content

VERSION: Final = 1
LARGEST: Final = 144 * 1024
"""Maximum bytes of an encoded checkpoint; every broker must take a message of that size."""


class CheckpointUnreadable(GatewayError):
    """A checkpoint was written by a later release, or is no checkpoint."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """The last verified event that history showed, as it must show it again; before one is verified, the first."""

    sequence: int
    id: str | None = None
    """EventId; None where the hub gave none."""
    time: str | None = None
    """EventTime: what is compared where one of two sightings has no EventId; None for a dead letter."""

    @classmethod
    def of(cls, content: Content) -> Anchor:
        """Remember `content`, which has a sequence."""
        assert content.sequence is not None  # noqa: S101 - the caller looked
        return cls(content.sequence, content.id, getattr(content, "time", None))

    def contradicts(self, other: Anchor) -> bool:
        """Return whether `other`, of the same sequence, is certainly another event."""
        if self.id is not None and other.id is not None:
            return self.id != other.id
        if self.time is not None and other.time is not None:
            return ticks(self.time) // TICKS_PER_SECOND != ticks(other.time) // TICKS_PER_SECOND
        return False

    def __str__(self) -> str:
        """Return which event it is, as text."""
        return self.id or (f"one of {self.time}" if self.time else "one without EventId")


@dataclass(frozen=True, slots=True)
class Passed:
    """The sequences up to `verified`, as far as they are known."""

    began: int
    """The account began after it: nothing up to it was ever to be published."""
    floor: int
    """Above it every sequence is settled but those in `holes`; of those up to it nothing is known any more."""
    holes: tuple[tuple[int, int], ...] = ()
    """Inclusive intervals of sequences that were never settled."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is settled for one account."""

    verified: int
    anchor: Anchor | None = None
    """None until history has shown an event; above `verified` until the first is verified."""
    settled: tuple[tuple[int, int], ...] = ()
    """Inclusive intervals of sequences above `verified` that are published, filtered or dead-lettered."""
    identities: bytes = field(default=b"", repr=False)
    """Digests of the last identities published with a sequence, 8 bytes each, oldest first."""
    unsequenced: bytes = field(default=b"", repr=False)
    """Digests of the last identities published without a sequence, likewise."""
    incarnation: int = 1
    """Rises by one when an operator declares the hub's history to be another one."""
    subject: str | None = None
    """The subject of the key with which this was made, where the key is a JWT that names it."""
    subscriptions: tuple[Subscription, ...] = ALL
    """What held at which sequence, as far as an event above `verified` may fall under it."""
    passed: Passed | None = None
    """None where nothing is known of what is below `verified`."""
    sightings: tuple[Sighting, ...] = ()
    """The latest sequences that the hub returned, with their times, oldest first."""
    again: int = 0
    """Up to here history shows again what is published, and what is published again pushes identities out of memory."""
    lost: tuple[tuple[int, int], ...] = ()
    """Inclusive intervals above `verified` of what was published and the broker lost; what is settled in them is there.

    What of it the history does not give again is announced as a gap.
    """


def reset_checkpoint(incarnation: int, start: int, strategies: Strategies) -> Checkpoint:
    """Return the checkpoint that begins an incarnation after sequence `start` of a history that may be another.

    It keeps nothing that was settled, remembered or pinned; the desired `strategies` hold from the beginning.
    """
    if start < 0:
        raise ValueError(f"a history has no sequence {start}; 0 begins at its earliest event")
    return Checkpoint(verified=start, incarnation=incarnation, subscriptions=(Subscription(0, strategies),))


def reset_notification(account: str, new: Checkpoint) -> Notification:
    """Return the notification of a reset, to be committed with it: sequences may begin again."""
    detail: dict[str, str | int | None] = {
        "Incarnation": new.incarnation,
        "SinceSeqId": new.verified,
        "Strategies": strategies_text(new.subscriptions[-1].strategies),
    }
    return Notification(account, "checkpoint-reset", detail)


class _Wire(msgspec.Struct, kw_only=True, omit_defaults=True):
    version: int
    verified: int
    incarnation: int = 1
    anchor: tuple[int, str | None, str | None] | None = None
    settled: list[int] = []
    """Gap before and length of each interval in turn, counted from `verified`: a few digits each."""
    identities: str = ""
    """Base64 of all in turn, 8 bytes each."""
    unsequenced: str = ""
    subject: str | None = None
    subscriptions: list[tuple[int, list[int] | None]] = []
    """None at all for the usual case: everything, from the beginning."""
    passed: list[int] = []
    """Where the account began, the floor, and from that the gap before and length of each hole in turn."""
    sightings: list[tuple[int, int, int | None]] = []
    """The latest sequence, and when the hub returned it: in ticks by the hub's clock and by ours."""
    again: int = 0
    lost: list[int] = []
    """Like `settled`."""


class _Version(msgspec.Struct):
    version: int


_decode = msgspec.json.Decoder(_Wire).decode
_decode_version = msgspec.json.Decoder(_Version).decode


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Return the bytes to commit: JSON."""
    anchor, passed = checkpoint.anchor, checkpoint.passed
    return msgspec.json.encode(
        _Wire(
            version=VERSION,
            verified=checkpoint.verified,
            incarnation=checkpoint.incarnation,
            anchor=(anchor.sequence, anchor.id, anchor.time) if anchor else None,
            settled=_numbers(checkpoint.verified, checkpoint.settled),
            identities=_text(checkpoint.identities),
            unsequenced=_text(checkpoint.unsequenced),
            subject=checkpoint.subject,
            subscriptions=[
                (held.since, None if held.strategies is None else sorted(held.strategies))
                for held in checkpoint.subscriptions
                if checkpoint.subscriptions != ALL
            ],
            passed=[] if passed is None else [passed.began, passed.floor, *_numbers(passed.floor, passed.holes)],
            sightings=[(one.latest, one.moment.hub, one.moment.ours) for one in checkpoint.sightings],
            again=checkpoint.again,
            lost=_numbers(checkpoint.verified, checkpoint.lost),
        )
    )


def decode_checkpoint(value: bytes) -> Checkpoint:
    """Read what `encode_checkpoint` gave; raises CheckpointUnreadable."""
    try:
        _check_version(_decode_version(value).version)
        wire = _decode(value)
        return Checkpoint(
            verified=_natural(wire.verified),
            anchor=Anchor(*wire.anchor) if wire.anchor else None,
            settled=_intervals(wire.verified, wire.settled),
            identities=_digests(wire.identities),
            unsequenced=_digests(wire.unsequenced),
            incarnation=wire.incarnation,
            subject=wire.subject,
            subscriptions=_subscriptions(wire.subscriptions),
            passed=_passed(wire.verified, wire.passed),
            sightings=tuple(Sighting(latest, Moment(hub, ours)) for latest, hub, ours in wire.sightings),
            again=wire.again,
            lost=_intervals(wire.verified, wire.lost),
        )
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CheckpointUnreadable(f"not a checkpoint of version {VERSION}: {error}: {value[:200]!r}") from error


def _check_version(version: int) -> None:
    if version > VERSION:
        raise CheckpointUnreadable(
            f"the checkpoint has version {version}, this release reads up to version {VERSION}: "
            "run the release that wrote it, or a later one"
        )
    if version != VERSION:
        raise ValueError(f"there is no version {version}")


def _natural(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is below 0")
    return number


def _numbers(base: int, intervals: tuple[tuple[int, int], ...]) -> list[int]:
    bounds = [base, *chain.from_iterable((low, high + 1) for low, high in intervals)]
    return [after - before for before, after in pairwise(bounds)]


def _passed(verified: int, numbers: list[int]) -> Passed | None:
    if not numbers:
        return None
    began, floor, *holes = numbers
    found = Passed(began, floor, _intervals(floor, holes))
    if not 0 <= began <= floor <= verified or (found.holes and found.holes[-1][1] > verified):
        raise ValueError(f"what was passed up to {verified} cannot be {numbers}")
    return found


def _intervals(verified: int, numbers: list[int]) -> tuple[tuple[int, int], ...]:
    settled, at = [], verified
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        if gap < 1 or length < 1:
            raise ValueError(f"the interval of gap {gap} and length {length} is none")
        settled.append((at + gap, at + gap + length - 1))
        at += gap + length
    return tuple(settled)


def _subscriptions(wire: list[tuple[int, list[int] | None]]) -> tuple[Subscription, ...]:
    if any(one[0] >= following[0] for one, following in pairwise(wire)):
        raise ValueError("the subscriptions are not in rising order")
    held = (Subscription(since, None if ids is None else frozenset(ids)) for since, ids in wire)
    return tuple(held) or ALL


def _text(digests: bytes) -> str:
    return binascii.b2a_base64(digests, newline=False).decode()


def _digests(text: str) -> bytes:
    digests = binascii.a2b_base64(text.encode(), strict_mode=True) if text else b""
    if len(digests) % DIGEST_BYTES:
        raise ValueError(f"identities have {DIGEST_BYTES} bytes each, {len(digests)} are no multiple")
    return digests
