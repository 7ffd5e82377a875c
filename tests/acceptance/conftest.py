"""Fixtures of several files."""

from __future__ import annotations

import pytest

from tests.support import kafka_server, preloaded
from tests.support.replay_client import Scenes
from tools import chaos


@pytest.fixture
def started_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start gateways by the installed command, as users do, and not from modules that are loaded already."""
    monkeypatch.setattr(preloaded.LOADER, "is_allowed", False)


@pytest.fixture(params=["jetstream", "kafka"])
def each_broker(request: pytest.FixtureRequest) -> Scenes:
    """Return each broker in turn, where what is tested has a part of its own for each."""
    return _scenes(request.param)


@pytest.fixture(params=["jetstream", pytest.param("kafka", marks=pytest.mark.long)])
def broker(request: pytest.FixtureRequest) -> Scenes:
    """Return each broker in turn; what is tested reaches it through ports that the contract suite proves on both."""
    return _scenes(request.param)


def _scenes(broker: str) -> Scenes:
    if broker == "kafka":
        kafka_server.require_java()
        return lambda folder, accounts: chaos.kafka(folder, seed=9, accounts=accounts)
    return lambda folder, accounts: chaos.jetstream(folder, seed=9, accounts=accounts)
