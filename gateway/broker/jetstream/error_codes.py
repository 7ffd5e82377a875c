"""What JetStream's refusals of a commit mean: one message, its size, the whole stream, or a temporary failure.

Codes are those of nats-server 2.12 to 2.15 (server/errors.json there). Only a code about one message's own content may
ever make a dead letter of it. Any other code does not concern a message: the log is reopened.
"""

from __future__ import annotations

from typing import Final

from gateway.errors import (
    ActionRequired,
    BrokerError,
    CommitRejected,
    Fenced,
    OutcomeUnknown,
    StorageFull,
    TooManyMessages,
    Unavailable,
)

NO_MESSAGE: Final = 10037
"""Of a read: there is none under the subject, or with the number."""

ONE_MESSAGE: Final = frozenset({10054, 10097})
"""A message is larger than the stream takes, or its headers are."""

MOVED: Final = frozenset({10071, 10164})
"""The fence or a checkpoint is not where it was; another batch that expects it is in flight (only with replicas)."""

WENT_BACK: Final = frozenset({10176, 10199})
"""The server lost a part of the batch, as where it has no room for more; the batch has more messages than it takes."""

FULL: Final = frozenset({10002, 10023, 10028, 10047, 10053, 10077, 10120, 10122})
"""Limits of account, server, storage and stream."""

PASSES: Final = frozenset({10004, 10006, 10007, 10008, 10009, 10075, 10118, 10158, 10163, 10167, 10194, 10210, 10211})
"""Too many requests or open batches; the cluster has no leader, or the stream's servers are away."""

SETTINGS: Final = {
    10174: "set allow_atomic to true",
    10166: "set allow_msg_ttl to true",
    10165: "set allow_msg_ttl to true, and topics.retention to whole seconds",
    10111: "set allow_rollup_hdrs to true, and deny_purge to false",
    10109: "back it up, delete it, and restore it with allow_rollup_hdrs, without sealed, deny_delete and deny_purge",
    10039: "enable JetStream for this account",
    10076: "enable JetStream on the server",
    10035: "let the server know the account",
    10056: "let only one stream take the gateway's subjects",
    10060: "let only one stream take the gateway's subjects",
    10198: "take the mirror away",
}
"""What a person changed, or must change, by code: nothing can be stored until then."""


def problem_of(code: int, description: str, *, stream: str) -> BrokerError:
    """Return what a refusal means; Fenced means that the fence and the checkpoints must be compared."""
    message = f"{description} (error {code})"
    if code in MOVED:
        return Fenced(message)
    if code in ONE_MESSAGE:
        return CommitRejected(message)
    if code in WENT_BACK:
        return TooManyMessages(message)
    if code in FULL:
        return StorageFull(message)
    if code in PASSES:
        return Unavailable(message)
    if code in SETTINGS:
        return ActionRequired(f"the stream {stream} takes nothing: {message}. Mend it: {SETTINGS[code]}")
    return OutcomeUnknown(message)
