"""The fence of a shard: the message of the stream that names the owner."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.broker.foreign_records import parsed_object
from gateway.broker.jetstream.last_messages import last_message, payload_of
from gateway.broker.jetstream.link import Link
from gateway.broker.jetstream.topics import Topics
from gateway.errors import BrokerError, Fenced, OutcomeUnknown


@dataclass(frozen=True, slots=True)
class Claim:
    """The claim in the fence of a shard."""

    sequence: int
    """The stream sequence of the claim, which batches expect."""
    owner: str
    epoch: int
    """How many claims the shard has seen, for people; claims that raced may share a number."""
    token: str
    """Distinguishes this claim from every other one."""


async def read_fence(link: Link, topics: Topics, shard: int) -> Claim | None:
    """Return the present claim, as the stream's leader has it; None where there never was one.

    A message that is no claim moves the fence as well, since only its place in the stream counts: it stands for a claim
    of an unknown writer. Raises Unavailable.
    """
    stored = await last_message(link, topics, topics.fence(shard))
    if stored is None:
        return None
    sequence, value = int(stored["seq"]), parsed_object(payload_of(stored))
    epoch = value.get("epoch")
    if not isinstance(epoch, int) or not {"owner", "token"} <= value.keys():
        return Claim(sequence, "somebody whose message is no claim of a gateway", 0, f"stray-{sequence}")
    return Claim(sequence, str(value["owner"]), epoch, str(value["token"]))


def fenced(shard: int, current: Claim | None) -> BrokerError:
    """Return the error that names the owner of a shard whose writer finds `current` instead of its own claim."""
    if current is None:
        return OutcomeUnknown(f"the claim of shard {shard} is gone from the stream: it was purged, or made anew")
    return Fenced(f"shard {shard} was claimed by {current.owner} (epoch {current.epoch})")
