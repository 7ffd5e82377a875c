"""What the suite says to any log, and the behaviours that planted defects are held against, too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from gateway.broker.ports import Commit, EventLog, LogReader, Stored
from gateway.errors import Fenced
from gateway.publication import Message

AWKWARD = 'ümlaut, "quoted", 100 % sure, tab\tand line\r\nInjected: yes'
"""A value that a careless header would lose or let through."""


def message(number: int, account: str = "demo", topic: str = "order-update", value: bytes | None = None) -> Message:
    """Return the message that stands for a number."""
    attributes = {
        "specversion": "1.0",
        "id": f"{account}/{number}",
        "source": f"/mesolive/{account}",
        "type": f"mesolive.{topic}.v1",
        "datacontenttype": "application/json",
        "sequence": f"{number:020d}",
        "account": account,
    }
    return Message(topic, account, str(number).encode(), b'{"N":%d}' % number if value is None else value, attributes)


def messages(first: int, last: int, account: str = "demo") -> list[Message]:
    """Return the messages of all numbers from `first` to `last`."""
    return [message(number, account) for number in range(first, last + 1)]


async def read(
    reader: LogReader,
    *,
    topics: Sequence[str] | None = None,
    accounts: Sequence[str] | None = None,
    start: str = "first",
) -> list[Stored]:
    """Read to the end that the log has now."""
    return [stored async for stored in reader.read(topics=topics, accounts=accounts, start=start, follow=False)]


async def numbers(reader: LogReader) -> list[int]:
    """Return the numbers of all messages in the log's order."""
    return [int(stored.message.key) for stored in await read(reader)]


def in_each_topic(given: Sequence[Message]) -> dict[tuple[str, str], list[Message]]:
    """Return the messages of each account in each topic, in their order."""
    found: dict[tuple[str, str], list[Message]] = {}
    for one in given:
        found.setdefault((one.account, one.topic), []).append(one)
    return found


async def opening_fences_every_older_writer(log: EventLog, reader: LogReader) -> None:
    async with log.open(1) as oldest:
        await oldest.commit(Commit(messages(1, 1), {"demo": b"1"}))
        async with log.open(1) as older, log.open(1) as newest:
            for late in (oldest, older):
                try:
                    await late.commit(Commit(messages(2, 3), {"demo": b"3"}))
                except Fenced:
                    continue
                raise AssertionError("an older writer wrote after the shard was claimed anew")
            assert await newest.checkpoints() == {"demo": b"1"}
            await newest.commit(Commit(messages(2, 2), {"demo": b"2"}))
            assert await newest.checkpoints() == {"demo": b"2"}
    assert await numbers(reader) == [1, 2]


async def a_commit_is_read_back_as_it_was(log: EventLog, reader: LogReader, *, one_order: bool = True) -> None:
    given = [
        message(7),
        message(3, account="A-63_" + "x" * 58),
        message(5, topic="dead-letter", value=b"\x00\xff\r\n"),
        message(5, value=b""),
        Message("notifications", "demo", AWKWARD.encode(), b"{}", {"id": AWKWARD, "subject": "", "source": "/a b"}),
    ]
    async with log.open(0) as shard:
        await shard.commit(Commit(given))
    stored = await read(reader)
    if one_order:
        assert [one.message for one in stored] == given
    else:
        assert in_each_topic([one.message for one in stored]) == in_each_topic(given)
    assert len({one.position for one in stored}) == len(given)


async def a_cancelled_commit_is_all_or_nothing(log: EventLog, reader: LogReader) -> None:
    """Cancel at ever later moments, until some were stored, and look what a reopened log says, and that it stays so."""
    settled = attempt = 0
    while attempt < 24 or settled == 0:
        attempt += 1
        last = settled + 50
        async with log.open(2) as shard:
            commit = asyncio.create_task(shard.commit(Commit(messages(settled + 1, last), {"demo": b"%d" % last})))
            for _ in range(attempt):
                await asyncio.sleep(0 if attempt < 12 else 0.0005 * max(1, attempt - 23))
            commit.cancel()
            await asyncio.wait({commit})
        async with log.open(2) as shard:
            stored = int((await shard.checkpoints()).get("demo", b"0"))
            assert stored == last if not commit.cancelled() else stored in {settled, last}
            assert await numbers(reader) == list(range(1, stored + 1))
            settled = stored


async def of_racing_writers_only_the_newest_goes_on(log: EventLog, reader: LogReader) -> None:
    stored = 0
    for _ in range(10):
        async with AsyncExitStack() as stack:
            opened = await asyncio.gather(*(stack.enter_async_context(log.open(5)) for _ in range(3)))
            one_more = Commit(messages(stored + 1, stored + 2), {"demo": b"%d" % (stored + 2)})
            outcomes = await asyncio.gather(*(shard.commit(one_more) for shard in opened), return_exceptions=True)
            assert outcomes.count(None) == 1
            assert all(isinstance(outcome, Fenced) for outcome in outcomes if outcome is not None)
            stored += 2
            assert await opened[outcomes.index(None)].checkpoints() == {"demo": b"%d" % stored}
    assert await numbers(reader) == list(range(1, stored + 1))


REPLAY = "~0123456789abcdef0123456789abcdef"
"""What the checkpoint of a replay goes by."""


async def what_is_forgotten_stays_forgotten(log: EventLog, reader: LogReader) -> None:
    async with log.open(3) as shard:
        await shard.commit(Commit(messages(1, 1), {"demo": b"1", REPLAY: b"half", "other": b"o"}))
        assert await shard.checkpoints() == {"demo": b"1", REPLAY: b"half", "other": b"o"}
        await shard.commit(Commit(messages(2, 2), {"demo": b"2", REPLAY: None, "never": None}))
        assert await shard.checkpoints() == {"demo": b"2", "other": b"o"}
    async with log.open(3) as shard:
        assert await shard.checkpoints() == {"demo": b"2", "other": b"o"}
        await shard.commit(Commit([], {"demo": None, REPLAY: None}))
        assert await shard.checkpoints() == {"other": b"o"}
        await shard.commit(Commit(messages(3, 3), {REPLAY: b"again"}))
    async with log.open(3) as shard:
        assert await shard.checkpoints() == {REPLAY: b"again", "other": b"o"}
    assert await numbers(reader) == [1, 2, 3]


async def an_older_writer_makes_nothing_forgotten(log: EventLog, reader: LogReader) -> None:
    async with log.open(1) as old:
        await old.commit(Commit(messages(1, 1), {"demo": b"1"}))
        async with log.open(1) as new:
            try:
                await old.commit(Commit([], {"demo": None}))
            except Fenced:
                pass
            else:
                raise AssertionError("an older writer forgot a checkpoint")
            assert await new.checkpoints() == {"demo": b"1"}
    assert await numbers(reader) == [1]


async def a_cancelled_commit_forgets_with_its_messages_or_not_at_all(log: EventLog, reader: LogReader) -> None:
    """Cancel at ever later moments, until some were stored, and look whether either all of it is so or nothing."""
    stored = attempt = forgotten = 0
    while attempt < 24 or forgotten == 0:
        attempt += 1
        async with log.open(2) as shard:
            await shard.commit(Commit([], {REPLAY: b"%d" % stored}))
            commit = asyncio.create_task(shard.commit(Commit(messages(stored + 1, stored + 50), {REPLAY: None})))
            for _ in range(attempt):
                await asyncio.sleep(0 if attempt < 12 else 0.0005 * max(1, attempt - 23))
            commit.cancel()
            await asyncio.wait({commit})
        async with log.open(2) as shard:
            is_forgotten = await shard.checkpoints() != {REPLAY: b"%d" % stored}
            assert is_forgotten or commit.cancelled()
            stored += 50 * is_forgotten
            forgotten += is_forgotten
            assert await shard.checkpoints() == ({} if is_forgotten else {REPLAY: b"%d" % stored})
            assert await numbers(reader) == list(range(1, stored + 1))


Behaviour = Callable[[EventLog, LogReader], Awaitable[None]]
