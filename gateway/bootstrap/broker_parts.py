"""What opening a broker needs, whichever it is: the parts that come of it, and who lets the gateway in."""

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

    said: str
    """All of it, in words."""
    warnings: Sequence[str] = ()
    """What is not as the settings have it, and harms nothing."""


@dataclass(frozen=True, slots=True)
class Broker:
    """An open broker."""

    log: EventLog
    reader: LogReader
    registry: Registry
    ownership: Ownership
    """Who of several replicas serves which shard."""
    control: ControlStore
    """What operators want and what is so."""
    audit: AuditTrail
    """Who changed what."""
    member: str
    """This process, for people."""
    one_order: bool
    """Whether the log has one order over all kinds of an account, or one for each kind."""
    prepare: Callable[[Settings], Awaitable[BrokerFacts]]
    """Creates what is missing, or only checks it, and says what is there; raises ConfigurationError, Unavailable."""
    again: Callable[[Settings], Awaitable[None]]
    """Does that again while the gateway works: makes what is gone, where no promise suffers, and compares the rest.

    Raises as `prepare`, and ActionRequired.
    """
    refused: Callable[[Settings, Iterable[str]], Awaitable[list[str]]]
    """Says in words what the broker would not let the gateway write for these accounts, without writing it."""
    tried: Callable[[], Awaitable[None]]
    """Tries what no gateway can do without, and changes nothing; raises ConfigurationError, Unavailable."""
    tried_whole: Callable[[], Awaitable[list[str]]]
    """Tries all that the gateway needs, and says what was left out; raises ConfigurationError, Unavailable."""


def replica_name(process: int) -> str:
    """Return the name, for people, of the gateway that is this process of this machine."""
    return f"{socket.gethostname()}/{process}"


def access_of(settings: BrokerSettings) -> BrokerLogin:
    """Return who the gateway says it is, and whom it believes; raises ConfigurationError for contradictions."""
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
