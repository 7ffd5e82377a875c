"""Fixtures of several files."""

from __future__ import annotations

import pytest

from tests.support import kafka_server
from tests.support.replay_client import Scenes
from tools import chaos


@pytest.fixture(params=["jetstream", "kafka"])
def broker(request: pytest.FixtureRequest) -> Scenes:
    """Return each broker in turn."""
    if request.param == "kafka":
        kafka_server.require_java()
        return lambda folder, accounts: chaos.kafka(folder, seed=9, accounts=accounts)
    return lambda folder, accounts: chaos.jetstream(folder, seed=9, accounts=accounts)
