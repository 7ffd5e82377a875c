"""How the tests listen to a connection until it ends."""

from __future__ import annotations

import pytest

from gateway.errors import ConnectionLost
from gateway.signalr.connection import HubConnection


def ignore(_target: str, _arguments: list[bytes]) -> None:
    pass


async def following(connection: HubConnection) -> tuple[list[tuple[str, list[bytes]]], ConnectionLost]:
    """Run to the end; return what was pushed and how it ended."""
    pushed: list[tuple[str, list[bytes]]] = []
    with pytest.raises(ConnectionLost) as lost:
        await connection.run(lambda *push: pushed.append(push))
    return pushed, lost.value
