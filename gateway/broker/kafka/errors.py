"""What aiokafka's errors mean to the gateway: which are temporary, which need a person, and their messages."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiokafka.errors import (
    AuthenticationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)

from gateway.broker.kafka import client_internals
from gateway.errors import ActionRequired, ConfigurationError, Unavailable

MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")


@contextmanager
def map_aiokafka_errors(what: str, operation: str = "Write") -> Iterator[None]:
    """Turn what aiokafka and the socket raise into Unavailable: for calls that store nothing.

    `operation` is what they need a permission for.
    """
    try:
        yield
    except TimeoutError as error:
        raise Unavailable(f"{what}: Kafka did not answer in time") from error
    except client_internals.Unreached as error:
        for failure in error.failures.values():
            explained = _explained(failure)
            if explained is not None:
                raise explained from failure
        raise Unavailable(str(error)) from error
    except (KafkaError, OSError) as error:
        raise as_action_required(error, operation) or Unavailable(f"{what}: {describe(error)}") from error


@contextmanager
def permissions_may_return() -> Iterator[None]:
    """Turn ConfigurationError into ActionRequired: a refusal while the gateway works is waited for.

    A revoked permission or login must not end the other shards; a person may grant it again.
    """
    try:
        yield
    except ConfigurationError as error:
        raise ActionRequired(str(error)) from error


def permission_error(what: str, operation: str) -> ConfigurationError:
    """Return the error of a permission that is missing for a topic or a transactional id."""
    remedy = "Give the gateway's user the ACLs of docs/operate/kafka.md."
    return ConfigurationError(what, f"Kafka does not permit {operation}", remedy)


def as_action_required(error: BaseException, operation: str = "Write") -> ActionRequired | None:
    """Return the error that an operator must fix, where aiokafka means that a permission is missing."""
    if isinstance(error, TopicAuthorizationFailedError):
        (named,) = error.args or ("its name is not told",)
        names = ", ".join(sorted(named)) if isinstance(named, set) else str(named)
        return ActionRequired(str(permission_error(f"topic {names}", operation)))
    if isinstance(error, TransactionalIdAuthorizationFailed):
        (name,) = error.args or ("of the shard",)
        return ActionRequired(str(permission_error(f"transactional id {name}", operation)))
    if isinstance(error, GroupAuthorizationFailedError):
        (name,) = error.args or ("of the gateways",)
        return ActionRequired(str(permission_error(f"group {name}", "Read")))
    return None


def describe(error: BaseException) -> str:
    """Return the message for an error of aiokafka."""
    text = str(error)
    name = type(error).__name__
    return (
        text if name in text or isinstance(error, client_internals.Unreached) else f"{name}: {text}" if text else name
    )


def _explained(error: Exception) -> ConfigurationError | None:
    if isinstance(error, (SaslAuthenticationFailed, AuthenticationFailedError)):
        return ConfigurationError(
            "broker.sasl", f"Kafka refused the login: {describe(error)}", "Check user and password."
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return ConfigurationError("broker.sasl.mechanism", describe(error), f"There are: {', '.join(MECHANISMS)}.")
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigurationError(
            "broker.tls.ca_file", str(error), "Name the authority that signed the brokers' certificates."
        )
    return None
