"""The names on Kafka, and the conversion of a message to a record and back.

The form is CloudEvents 1.0 in binary mode: each attribute is a header `ce_<name>`, the content type is `content-type`.
An event's partition is that of its account, as if the account were the record's key. So an account stays in order, and
joins with other topics that are keyed by account.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from aiokafka.partitioner import murmur2

from gateway.events.catalogue import KINDS
from gateway.publication import DEAD_LETTER, NOTIFICATIONS, REPLAY, TRACEPARENT, Message, Shared

CLAIM: Final = b".claim"
"""The key of a claim in the checkpoint topic: no account's name begins with a dot."""

DESIRED: Final = 0
OBSERVED: Final = 1
"""The partitions of the control topic."""

_ATTRIBUTE: Final = "ce_"
_CONTENT_TYPE: Final = "content-type"
_ACCOUNT: Final = "gateway-account"
"""Only where no attribute names the account."""
_VERSION: Final = "v1"

_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]+")
_NAME: Final = re.compile(r"[a-z0-9]+")
"""A CloudEvents attribute's name."""

Headers = list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Topics:
    """The names that one deployment uses on Kafka; all of them begin with its prefix and a dot."""

    prefix: str
    """The first part of each name."""
    kinds: Sequence[str] = field(default=(*KINDS, DEAD_LETTER, NOTIFICATIONS, REPLAY))
    """What there are topics for."""

    def __post_init__(self) -> None:
        """Refuse a prefix that could not be part of a topic's name."""
        if not _PREFIX.fullmatch(self.prefix):
            raise ValueError(f"prefix {self.prefix!r} must be of letters, digits, _ and - only")

    @property
    def events(self) -> list[str]:
        """All topics that hold messages."""
        return [self.message(kind) for kind in self.kinds]

    @property
    def checkpoints(self) -> str:
        """The compacted topic of checkpoints and claims: a partition a shard."""
        return f"{self.prefix}.gateway.checkpoints"

    @property
    def accounts(self) -> str:
        """The compacted topic of what must never be forgotten: accounts, and how the deployment began."""
        return f"{self.prefix}.gateway.accounts"

    @property
    def control(self) -> str:
        """The compacted topic of what operators want and what owners see."""
        return f"{self.prefix}.gateway.control"

    @property
    def audit(self) -> str:
        """The topic of the audit trail."""
        return f"{self.prefix}.gateway.audit"

    @property
    def control_id(self) -> str:
        """The transactional id of what operators want: only its newest writer can use it."""
        return f"{self.prefix}.gateway-control"

    @property
    def trial_id(self) -> str:
        """The transactional id with which it is tried whether transactions can be."""
        return f"{self.prefix}.gateway-check"

    @property
    def trial_group(self) -> str:
        """What the names of groups begin with that are joined for a trial."""
        return f"{self.prefix}.gateway-check"

    @property
    def group(self) -> str:
        """The consumer group of the gateways, over the topic of checkpoints."""
        return f"{self.prefix}.gateway"

    def message(self, kind: str) -> str:
        """Return the topic of messages of a kind."""
        return f"{self.prefix}.{kind}.{_VERSION}"

    def kind(self, topic: str) -> str:
        """Return the kind of a topic that `message` named."""
        return topic.removeprefix(f"{self.prefix}.").removesuffix(f".{_VERSION}")

    def transactional_id(self, shard: int) -> str:
        """Return what only the newest writer of `shard` can use."""
        return f"{self.prefix}.gateway-{shard}"


@lru_cache(maxsize=1 << 17)
def _hash(account: str) -> int:
    return int(murmur2(account.encode())) & 0x7FFFFFFF


def partition_of(account: str, partitions: int) -> int:
    """Return the partition of an account, as the Java client's and librdkafka's murmur2 partitioners do for a key."""
    return _hash(account) % partitions


def headers_of(message: Message) -> Headers:
    """Return a message's headers; raises ValueError for an attribute that CloudEvents does not allow."""
    account, headers = _shared_headers(message.shared)
    own = message.own
    headers = [*headers, *[_own_header(name, text) for name, text in own.items()]]
    if TRACEPARENT in own:
        headers.append((TRACEPARENT, own[TRACEPARENT].encode()))
    if own.get("account", account) != message.account:
        headers.append((_ACCOUNT, message.account.encode()))
    return headers


@lru_cache(maxsize=1024)
def _shared_headers(shared: Shared) -> tuple[str | None, Headers]:
    """Return the account that the attributes name, and their headers."""
    return shared.attributes.get("account"), [_header(name, text) for name, text in shared.attributes.items()]


def _own_header(name: str, text: str) -> tuple[str, bytes]:
    header = _OWN.get(name)
    return (header, text.encode()) if header is not None else _header(name, text)


def _header(name: str, text: str) -> tuple[str, bytes]:
    if not _NAME.fullmatch(name):
        raise ValueError(f"attribute {name!r} must be of lower-case letters and digits")
    return (_CONTENT_TYPE if name == "datacontenttype" else _ATTRIBUTE + name), text.encode()


_OWN: Final = {name: _ATTRIBUTE + name for name in ("id", "sequence", "time", TRACEPARENT)}
"""The headers of attributes that differ from message to message."""


def message_of(
    kind: str, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]
) -> Message | None:
    """Return the message that was stored, None for anything that is not the gateway's."""
    account = None
    attributes = {}
    for name, raw in headers:
        if raw is None:  # Kafka allows headers without a value, and the gateway writes none
            continue
        text = raw.decode(errors="replace")
        if name.startswith(_ATTRIBUTE):
            attributes[name[len(_ATTRIBUTE) :]] = text
        elif name == _CONTENT_TYPE:
            attributes["datacontenttype"] = text
        elif name == _ACCOUNT:
            account = text
    account = account or attributes.get("account")
    if account is None or key is None or value is None:
        return None
    return Message(kind, account, key, value, attributes)
