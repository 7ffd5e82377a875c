"""What Kafka's refusals of a commit mean: one message, its size, a setting, or a temporary failure.

Codes are those of Kafka 4.1 (org.apache.kafka.common.protocol.Errors there), as aiokafka has them. Only a code about
one message's own content may ever make a dead letter of it. A code that aiokafka does not have does not concern any.
"""

from __future__ import annotations

from typing import Final

from aiokafka import errors as kafka

from gateway.broker.kafka.errors import as_action_required, describe
from gateway.errors import ActionRequired, BrokerError, CommitRejected, TooManyMessages, Unavailable

_SETTINGS: Final[dict[type[BaseException], str]] = {
    kafka.ClusterAuthorizationFailedError: "permit the gateway's user to write idempotently to the cluster",
    kafka.PolicyViolationError: "change the policy of the brokers, or what it names",
    kafka.InvalidTransactionTimeout: "raise transaction.max.timeout.ms of the brokers",
    kafka.InvalidSessionTimeoutError: "lower group.min.session.timeout.ms of the brokers",
    kafka.UnsupportedForMessageFormatError: "take message.format.version away from the topic and the brokers",
    kafka.UnsupportedVersionError: "run Kafka 2.5 or later",
    kafka.SaslAuthenticationFailed: "check broker.sasl",
    kafka.UnsupportedSaslMechanismError: "check broker.sasl.mechanism",
    kafka.IllegalSaslStateError: "check broker.sasl: the listener wants no login, or another",
    kafka.SecurityDisabled: "enable an authorizer, or take the permissions away",
    kafka.InvalidTopicError: "choose another broker.prefix: Kafka takes no such name",
}
"""What a person must change: nothing can be stored until then."""


def problem_of(error: BaseException) -> BrokerError:
    """Return what an error means that came before the transaction was to be ended: nothing of it is stored.

    Errors that mean a newer producer are not for this function.
    """
    if isinstance(error, kafka.MessageSizeTooLargeError):
        return CommitRejected(describe(error))
    if isinstance(error, kafka.RecordListTooLargeError):
        return TooManyMessages(describe(error))
    if (denied := as_action_required(error)) is not None:
        return denied
    for setting, remedy in _SETTINGS.items():
        if isinstance(error, setting):
            return ActionRequired(f"Kafka takes nothing: {describe(error)}. Mend it: {remedy}")
    return Unavailable(describe(error))
