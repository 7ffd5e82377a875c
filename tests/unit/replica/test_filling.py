"""How a shard fills a commit: fairly, and never above what the broker takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from gateway.broker.ports import Limits

Build = Callable[..., Awaitable[Any]]


async def test_many_accounts_share_commits_that_stay_within_their_limits(build: Build) -> None:
    names = [f"account-{number}" for number in range(12)]
    world = await build(*names, prefill=200)
    world.broker.limits = Limits(messages=50, bytes=1024 * 1024)
    await world.replica()
    for name in names:
        await world.published(name, range(1, 201))
        assert world.keys_of(name) == list(range(1, 201))


async def test_a_message_larger_than_a_commit_becomes_a_dead_letter_and_the_account_goes_on(build: Build) -> None:
    world = await build("main", prefill=10)
    payloads = world.hub.user("main").history.payloads
    payloads[4] = payloads[4].replace(b'ame":"', b'ame":"' + b"x" * 600_000, 1)
    world.broker.limits = Limits(messages=50, bytes=1024 * 1024)
    await world.replica()
    await world.published("main", range(1, 11))
    topics = {int(message.key): message.topic for message in world.messages("main")}
    assert [key for key, topic in topics.items() if topic == "dead-letter"] == [5]
