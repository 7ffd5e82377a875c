"""Why something became a dead letter: a closed list, so that operators can alert on each by name."""

from __future__ import annotations

from enum import StrEnum


class DeadLetterReason(StrEnum):
    """The label of a dead letter; the sentence beside it says where and what would be right."""

    UNKNOWN_KIND = "unknown-kind"
    """The callback, or the envelope's discriminator, is none of the 17 of the reference."""
    MALFORMED_JSON = "malformed-json"
    """Not JSON: a syntax error, bytes that are not UTF-8, NaN or Infinity, half of a surrogate pair."""
    BEYOND_LIMITS = "beyond-limits"
    """JSON, but nested deeper or with a number longer than any hub has a use for."""
    DUPLICATE_MEMBER = "duplicate-member"
    """One object has a member twice, literally or in two spellings of one modelled name."""
    INVALID_PAYLOAD = "invalid-payload"
    """JSON, but not the payload that the reference describes: a member is missing or has another type."""
    MALFORMED_ENVELOPE = "malformed-envelope"
    """An entry of a history page in which no discriminator or no payload can be found."""
    SEQUENCE_REUSED = "sequence-reused"
    """A sound event under a number that another event, or another content, has (not a reason of decoding)."""
    TOO_LATE = "too-late"
    """A sound event that the hub showed so late that its number may have been published (not a reason of decoding)."""
    TOO_LARGE = "too-large"
    """A sound event whose message is above the broker's limit (not a reason of decoding)."""
    REJECTED = "rejected"
    """A sound event whose message the broker refuses for another cause (not a reason of decoding)."""
