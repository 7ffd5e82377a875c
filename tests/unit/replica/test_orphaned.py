"""What is said of an account that no replica serves though this one has its key."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from gateway.broker.control_view import Versioned, View
from gateway.replica.orphaned import OrphanedAccounts
from gateway.state import ShardState


@pytest.mark.parametrize(("is_owned", "why"), [(True, "the owner of its shard has none"), (False, "has no owner")])
async def test_it_is_said_whether_its_shard_has_an_owner(is_owned: bool, why: str) -> None:
    """Where nobody could join the group of owners, it was said that the owner had no key."""
    view = View(lambda _: None)
    if is_owned:
        report = ShardState(owner="another", accounts=0, epoch=1)
        view.shards["3"] = Versioned(report, 1, written=0.0)
        view.age = lambda _: 1.0  # type: ignore[method-assign]
    orphans = OrphanedAccounts(view, "this one")
    with capture_logs() as logged:
        assert orphans.update([("alpha", 3)], now=0.0) == frozenset()
        assert orphans.update([("alpha", 3)], now=15.0) == {"alpha"}
        orphans.update([("alpha", 3)], now=30.0)
    (line,) = logged
    assert why in line["event"]
