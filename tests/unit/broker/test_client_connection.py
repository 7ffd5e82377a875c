"""Our connection of aiokafka's client over a transport that is gone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from gateway.broker.kafka.client_connection import ClientConnection


async def test_a_request_over_a_closed_transport_finds_no_connection() -> None:
    """Uvloop raises RuntimeError there; it ended aiokafka's member of a group, which would have connected again."""

    def write(_: bytes) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    connection = ClientConnection("127.0.0.1", 1)
    connection._writer = SimpleNamespace(write=write, close=lambda: None)
    connection._versions = {3: (0, 1)}
    with pytest.raises(KafkaConnectionError, match=r"127\.0\.0\.1:1 closed"):
        connection.send(MetadataRequest([]))
    assert not connection.connected()
