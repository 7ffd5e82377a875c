"""Members of the gateways' group that are no gateways: Kafka lets nobody in whose protocol is not that of the first."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from aiokafka.errors import InconsistentGroupProtocolError
from aiokafka.protocol.admin import DescribeGroupsRequest

from gateway.broker.kafka.connection import Connection
from gateway.errors import ActionRequired, GatewayError

INCONSISTENT: Final = InconsistentGroupProtocolError.errno
_NAMED: Final = 3
"""Maximum members that the error names."""


async def held_by_others(connection: Connection, group: str, coordinator: int) -> ActionRequired:
    """Return the error of a group that others are in, with their names where Kafka tells them."""
    found: list[str] = []
    with suppress(GatewayError):  # the names are a help; that somebody is there is known
        answer = await connection.ask(DescribeGroupsRequest([group]), node=coordinator)
        for _, _, _, _, protocol, members, *_ in answer.groups:
            how = protocol or "no protocol yet"
            found += [f"{client} at {host.lstrip('/')} ({how})" for _, client, host, *_ in members]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    names = ", ".join(sorted(found)[:_NAMED]) + more
    return ActionRequired(
        f"the group {group} has members that are no gateways: {names or 'Kafka does not tell which'}. It is for "
        "gateways alone. Mend it: end those consumers, and set another group.id there"
    )
