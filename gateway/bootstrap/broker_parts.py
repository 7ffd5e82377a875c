"""What opening a broker needs, whichever it is: the resulting parts, and the credentials."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.broker.credentials import BrokerLogin
from gateway.broker.ports import AuditTrail, ControlStore, EventLog, LogReader, Ownership, Registry
from gateway.events.catalogue import KINDS
from gateway.publication import DEAD_LETTER, NOTIFICATIONS, REPLAY
from gateway.settings.model import Settings
from gateway.settings.sections import BrokerSettings

TOPICS: Final = (*KINDS, DEAD_LETTER, NOTIFICATIONS, REPLAY)
"""Every topic of messages, by the name that it has on all brokers."""


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """What was found in a broker that can be written to."""

    summary: str
    """All of it, as text."""
    warnings: Sequence[str] = ()
    """What differs from the settings, and harms nothing."""


@dataclass(frozen=True, slots=True)
class Broker:
    """An open broker."""

    log: EventLog
    reader: LogReader
    registry: Registry
    ownership: Ownership
    """Which of several replicas serves which shard."""
    control: ControlStore
    """Desired and observed state."""
    audit: AuditTrail
    """The audit trail."""
    member: str
    """This process, for people."""
    one_order: bool
    """Whether the log has one order over all kinds of an account, or one for each kind."""
    prepare: Callable[[Settings], Awaitable[BrokerFacts]]
    """Creates what is missing, or only checks it, and returns what exists; raises ConfigurationError, Unavailable."""
    again: Callable[[Settings], Awaitable[None]]
    """Does that again while the gateway works: makes what is gone, where no promise suffers, and compares the rest.

    Raises as `prepare`, and ActionRequired.
    """
    refused: Callable[[Settings, Iterable[str]], Awaitable[list[str]]]
    """Returns, as text, which writes for these accounts the broker would refuse, without writing anything."""
    tried: Callable[[], Awaitable[None]]
    """Tries what no gateway can do without, and changes nothing; raises ConfigurationError, Unavailable."""
    tried_whole: Callable[[], Awaitable[list[str]]]
    """Tries all that the gateway needs, and returns what was left out; raises ConfigurationError, Unavailable."""


def replica_name(process: int) -> str:
    """Return the name, for people, of the gateway that is this process of this machine."""
    return f"{socket.gethostname()}/{process}"


def access_of(settings: BrokerSettings) -> BrokerLogin:
    """Return the gateway's identity, and the CAs it trusts; raises ConfigurationError for contradictions."""
    access = BrokerLogin(
        user=settings.sasl.username,
        password_file=settings.sasl.password_file,
        credentials_file=settings.credentials_file,
        tls_wanted=settings.tls.enabled,
        ca_file=settings.tls.ca_file,
        cert_file=settings.tls.cert_file,
        key_file=settings.tls.key_file,
        handshake_first=settings.tls.handshake_first,
    )
    access.check()
    return access
