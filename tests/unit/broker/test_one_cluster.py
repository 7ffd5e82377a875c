"""Servers are compared until all have answered the same; what does not answer proves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.broker import one_cluster
from gateway.broker.one_cluster import OneCluster
from gateway.errors import ConfigurationError, Unavailable

SOON = 0.05


class Servers:
    """Servers that answer what is written down for them, one after the other, and the last for ever."""

    def __init__(self, **answers: Sequence[object]) -> None:
        self.answers = {name: list(of_it) for name, of_it in answers.items()}
        self.asked = 0

    async def identity(self, server: str) -> str | None:
        self.asked += 1
        left = self.answers[server]
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer == "silence":
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        assert answer is None or isinstance(answer, str)
        return answer

    def compared(self) -> OneCluster:
        return OneCluster(list(self.answers), self.identity)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_cluster, "_AGAIN", 0)


async def test_servers_of_one_cluster_are_asked_once_and_never_again() -> None:
    servers = Servers(a=["x"], b=["x"], c=["x"])
    comparison = servers.compared()
    await comparison.check(SOON)
    await comparison.check(SOON)
    assert servers.asked == 3


async def test_a_single_server_is_not_asked() -> None:
    servers = Servers(a=["x"])
    await OneCluster(["a", "a"], servers.identity).check(SOON)
    assert servers.asked == 0


@pytest.mark.parametrize("other", ["y", None])
async def test_two_that_differ_are_named(other: str | None) -> None:
    servers = Servers(a=["x"], gone=[Unavailable("away")], silent=["silence"], b=[other])
    with pytest.raises(ConfigurationError, match="a and b are not of one cluster"):
        await servers.compared().check(SOON)


async def test_one_that_learns_a_moment_later_what_was_made_is_no_other() -> None:
    servers = Servers(a=["x"], b=[None, "x"])
    await servers.compared().check(SOON)


@pytest.mark.parametrize("first", ["silence", Unavailable("away")])
async def test_one_that_was_away_is_asked_again_and_found_out(first: object) -> None:
    servers = Servers(a=["x"], b=[first, "y"])
    comparison = servers.compared()
    await comparison.check(SOON)
    with pytest.raises(ConfigurationError, match="a and b"):
        await comparison.check(SOON)


async def test_servers_without_an_identity_yet_are_asked_again() -> None:
    servers = Servers(a=[None, "x"], b=[None, "y"])
    comparison = servers.compared()
    await comparison.check(SOON)
    assert comparison.is_new
    with pytest.raises(ConfigurationError, match="a and b"):
        await comparison.check(SOON)


async def test_nobody_answers() -> None:
    await Servers(a=[Unavailable("away")], b=["silence"]).compared().check(SOON)


async def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(KeyError):
        await Servers(a=["x"], b=[KeyError("created")]).compared().check(SOON)
