"""The event log on JetStream: a claim moves the shard's fence, and each commit is a batch that expects it unmoved.

A batch also expects each checkpoint that it replaces where it stands. A store that lost its end, as in a power cut, has
older checkpoints than its writer, and the events that the newer ones covered are not there. Whatever a server may do
with an abandoned batch, it cannot store it after the fence has moved. So after an unclear answer a new claim makes the
outcome final, and the checkpoints show what it was. Measured on one node and on three with replicas 3, through kills of
the leader: batches are never torn.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import uuid4

from nats.aio.msg import Msg

from gateway.broker.jetstream import batch, records, stream
from gateway.broker.jetstream.connection import Connection
from gateway.broker.jetstream.error_codes import problem_of
from gateway.broker.jetstream.fence import Claim, fenced, read_fence
from gateway.broker.jetstream.last_messages import last_message, last_messages, payload_of, subjects_of
from gateway.broker.jetstream.link import Link, NoResponders, PermissionDenied, has_no_responders
from gateway.broker.jetstream.topics import Topics
from gateway.broker.ports import Commit, Limits, Lost, check_limits
from gateway.errors import BrokerError, Fenced, OutcomeUnknown, TooLarge, Unavailable

DEFAULT_BATCH_BYTES: Final = 16 * 1024 * 1024
"""The server buffers up to 128 MiB a stream before it drops messages; a process has a few batches in flight."""

_REMEMBERED: Final = 64
"""Claims of each shard that are known to be older than ours."""

_PIPELINED: Final = 256
"""Checkpoints that are requested at the same time."""


@dataclass(frozen=True, slots=True)
class EventLogSettings:
    """How the log is written."""

    topics: Topics
    owner: str
    """Names this process in the fence, for people."""
    ttl: int | None = None
    """Seconds that events, dead letters, notifications and replays are kept; None for ever."""
    batch_bytes: int = DEFAULT_BATCH_BYTES
    """Bytes of one commit."""


class JetStreamLog:
    """The event log of one deployment on JetStream (`gateway.broker.ports.EventLog`)."""

    def __init__(self, connection: Connection, settings: EventLogSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._topics = settings.topics
        self._interrupted: dict[int, set[str]] = {}
        """Shard → tokens of our claims since a writer of ours failed, those that may have succeeded included."""
        self._overcome: defaultdict[int, deque[str]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        """Shard → tokens of claims that ours followed: one of them stands again where the store went back."""

    @asynccontextmanager
    async def open(self, shard: int) -> AsyncIterator[JetStreamShard]:
        """Claim `shard`; see the contract.

        Where a writer of ours failed, and a rival has claimed the shard since, this raises Fenced and claims
        nothing: a process that was frozen past its time limits would else take the shard back from its heir.
        """
        link = self._connection.link
        facts = await stream.facts(link, self._topics)
        claim = await self._claim(link, shard)
        self._interrupted.pop(shard, None)
        opened = JetStreamShard(
            self._connection,
            self._settings,
            shard=shard,
            claim=claim,
            link=link,
            facts=facts,
            overcome=self._overcome[shard],
        )
        try:
            yield opened
        finally:
            if opened.is_interrupted:
                self._interrupted[shard] = {claim.token}

    async def _claim(self, link: Link, shard: int) -> Claim:
        """Move the fence, whatever the owner; after a failure of our own, only where no other writer has.

        It is no compare-and-set, for this reason: with replicas the server refuses one (10164) for as long as any batch
        that expects the fence is in flight, so an old owner in full swing kept a new one out for 12 s: measured. A
        plain publish never waits, and of 3,000 batches that crossed one none was stored after it.
        """
        fence = self._topics.fence(shard)
        current = await read_fence(link, self._topics, shard)
        ours = self._interrupted.get(shard)
        overcome = self._overcome[shard]
        if ours is not None and current is not None and current.token not in {*ours, *overcome}:
            del self._interrupted[shard]  # the next opener reads the rival's claim
            raise fenced(shard, current)
        mine = Claim(0, self._settings.owner, 1 + (current.epoch if current else 0), uuid4().hex)
        value = {"version": 1, "owner": mine.owner, "epoch": mine.epoch, "token": mine.token}
        if ours is not None:
            ours.add(mine.token)
        if current is not None and current.token not in overcome:
            overcome.append(current.token)
        try:
            answer = _parsed(await link.ask(fence, json.dumps(value).encode(), {"Nats-Rollup": "sub"}))
        except (PermissionDenied, NoResponders):
            raise
        except Unavailable as error:
            current = None if link.is_lost else await read_fence(link, self._topics, shard)
            if current is not None and current.token == mine.token:
                return current
            raise OutcomeUnknown(f"the claim of shard {shard} may have succeeded: {error}") from error
        problem = _problem(answer, self._topics.stream)
        if isinstance(problem, (Unavailable, OutcomeUnknown)):
            raise problem
        if problem is not None:
            raise Unavailable(f"the claim of shard {shard} was refused: {problem}")
        return replace(mine, sequence=int(answer["seq"]))


class JetStreamShard:
    """The writer of one shard (`gateway.broker.ports.ShardLog`)."""

    def __init__(
        self,
        connection: Connection,
        settings: EventLogSettings,
        *,
        shard: int,
        claim: Claim,
        link: Link,
        facts: stream.StreamFacts,
        overcome: Collection[str],
    ) -> None:
        """`overcome` are tokens of claims that are older than `claim`, whatever the stream returns later."""
        self.claim = claim
        """The claim that this writer writes under."""
        self._connection = connection
        self._overcome = overcome
        self._topics = settings.topics
        self._form = batch.BatchLayout(settings.topics, shard, claim.sequence, settings.ttl)
        self._limits = Limits(messages=batch.MOST_MESSAGES - 1, bytes=settings.batch_bytes)  # one may be held twice
        self._last_sequences: dict[str, int | None] | None = None  # by name: where its checkpoint is; None for a marker
        self._newest = settings.topics.fence(shard), claim.sequence  # what this writer has seen in the stream
        self._verified_on = link
        self._facts = facts
        self._stored_up_to = claim.sequence
        self._spent: BrokerError | None = None

    @property
    def epoch(self) -> int:
        """The stream sequence of the claim: it rises with every message of the stream, and no two claims share one."""
        return self.claim.sequence

    @property
    def limits(self) -> Limits:
        """What one commit may hold."""
        return self._limits

    @property
    def lost(self) -> Mapping[str, Collection[Lost]]:
        """See the contract: events and checkpoints are in one store, which loses both."""
        return {}

    async def checkpoints(self) -> dict[str, bytes]:
        """Return every checkpoint of the shard, as the stream's leader has it; see the contract."""
        link = self._connection.link
        await self._verify(link)
        subjects = await subjects_of(link, self._topics, self._topics.checkpoints(self._form.shard))
        found: dict[str, bytes] = {}
        places: dict[str, int | None] = {}
        for start in range(0, len(subjects), _PIPELINED):
            for stored in await last_messages(link, self._topics, subjects[start : start + _PIPELINED]):
                name = stored["subject"].rpartition(".")[2]
                places[name] = None
                if not records.is_marker(stored):
                    found[name], places[name] = payload_of(stored), int(stored["seq"])
        current = await read_fence(link, self._topics, self._form.shard)
        if current is None or current.sequence != self.claim.sequence:
            raise self._spend(self._superseded(current))
        for name, known in (self._last_sequences or {}).items():
            if known is not None and places.get(name, 0) != known:
                message = f"the checkpoint of {name} was at {known}, and is at {places.get(name, 0)}"
                raise self._spend(OutcomeUnknown(message))
        self._last_sequences = places
        return found

    async def check(self) -> None:
        """Check whether what this writer stored last is there; see the contract."""
        if self._spent is not None:
            raise type(self._spent)(f"this log is spent: {self._spent}") from self._spent
        link = self._connection.link
        await self._verify(link)
        subject, expected = self._newest
        stored = await last_message(link, self._topics, subject)
        found = 0 if stored is None else int(stored["seq"])
        if found < expected:
            message = f"the stream {self._topics.stream} went back: {subject} was at {expected}, and is at {found}"
            raise self._spend(OutcomeUnknown(message))

    @property
    def is_interrupted(self) -> bool:
        """Whether it is spent though no other owner of the shard is known."""
        return self._spent is not None and not isinstance(self._spent, Fenced)

    async def commit(self, commit: Commit) -> None:
        """Store all of `commit` or nothing; see the contract."""
        if self._spent is not None:
            raise type(self._spent)(f"this log is spent: {self._spent}") from self._spent
        check_limits(commit, self._limits)
        if not commit.messages and not commit.checkpoints:
            return
        try:
            link = self._connection.link
            await self._verify(link)
            made, answer = await self._exchange(link, commit)
        except TooLarge:
            raise
        except BrokerError as error:
            raise self._spend(error) from None
        stored_up_to, problem = _judge(answer, made, self._stored_up_to, self._topics.stream)
        if problem is None:
            self._stored(made, stored_up_to)
            self._spent = None
            return
        if isinstance(problem, Fenced):
            problem = await self._what_moved(link, commit)
        raise self._spend(problem)

    def _stored(self, made: batch.BatchFrames, last: int) -> None:
        """Note where the checkpoints of a batch are, whose last message is at `last`."""
        self._stored_up_to = last
        if made.checkpoints:
            self._newest = self._topics.fence(self._form.shard), self.claim.sequence  # the other may be forgotten
        for name, frame in made.checkpoints.items():
            place = None if frame is None else last - len(made.frames) + 1 + frame
            if self._last_sequences is not None:
                self._last_sequences[name] = place
            if place is not None:
                self._newest = self._topics.checkpoint(self._form.shard, name), place

    async def _exchange(self, link: Link, commit: Commit) -> tuple[batch.BatchFrames, Msg]:
        """Send the batch of `commit` and return the answer to it: the first error, or the acknowledgement."""
        with link.open_inbox(self._topics.stream) as inbox:
            largest = min(link.max_payload, self._facts.max_message or link.max_payload)
            made = batch.make_batch(
                self._form, commit, last_sequences=self._last_sequences, answer_to=inbox.subject, largest=largest
            )
            inbox.expect(made.subjects)
            self._spent = OutcomeUnknown("a commit was cancelled")
            try:
                async with link.time_limit():
                    await link.send(made.frames)
                    while True:
                        answer = await inbox.next()
                        if not _is_bare(answer):  # as the first message's answer is when nothing is wrong with it
                            return made, answer
            except TimeoutError:
                raise OutcomeUnknown(f"no answer to a commit within {link.timeout:g} s") from None
            except PermissionDenied:  # a batch that lacks a message is never stored
                raise
            except Unavailable as error:
                raise OutcomeUnknown(f"the commit may have been stored: {error}") from error

    async def _verify(self, link: Link) -> None:
        """After a reconnect, make sure that this is the stream in which the claim stands."""
        if link is self._verified_on:
            return
        facts = await stream.facts(link, self._topics)
        if facts.created != self._facts.created:
            raise self._spend(OutcomeUnknown(f"the stream {self._topics.stream} was made anew at {facts.created}"))
        self._facts = facts
        self._verified_on = link

    async def _what_moved(self, link: Link, commit: Commit) -> BrokerError:
        """Return which condition of a commit did not hold: whose the shard is, or which checkpoint is another."""
        subjects = {self._topics.checkpoint(self._form.shard, name): name for name in commit.checkpoints}
        try:
            current = await read_fence(link, self._topics, self._form.shard)
            if current is None or current.sequence != self.claim.sequence:
                return self._superseded(current)
            stored = await last_messages(link, self._topics, list(subjects))
        except Unavailable as error:
            return OutcomeUnknown(f"the commit was refused, and it cannot be read why: {error}")
        found = {subjects[one["subject"]]: int(one["seq"]) for one in stored}
        known = self._last_sequences or {}
        moved = [
            f"{name} was at {expected}, and is at {found.get(name, 0)}"
            for name in commit.checkpoints
            if (expected := known.get(name, 0)) is not None and found.get(name, 0) != expected
        ]
        if moved:
            return OutcomeUnknown(f"checkpoints are not where they were: {'; '.join(moved)}")
        return OutcomeUnknown("the commit was refused although the fence and the checkpoints stand")

    def _superseded(self, current: Claim | None) -> BrokerError:
        """Return the error that names the shard's owner, by another writer's claim; an older claim has no owner."""
        if current is not None and current.token in self._overcome:
            return OutcomeUnknown(f"the stream {self._topics.stream} went back: an older claim of the shard stands")
        return fenced(self._form.shard, current)

    def _spend(self, error: BrokerError) -> BrokerError:
        self._spent = error
        return error


def _is_bare(answer: Msg) -> bool:
    return not answer.data and not has_no_responders(answer)


def _judge(answer: Msg, made: batch.BatchFrames, stored_up_to: int, stream: str) -> tuple[int, BrokerError | None]:
    """Return the last sequence stored, and what is wrong; anything but the exact acknowledgement is."""
    if has_no_responders(answer):
        return 0, OutcomeUnknown("no stream takes the commit's messages")
    reply = _parsed(answer)
    problem = _problem(reply, stream)
    if problem is not None:
        return 0, problem
    if reply.get("batch") != made.id or reply.get("count") != len(made.frames):
        return 0, OutcomeUnknown(f"the acknowledgement is not of this batch: {reply}")
    sequence = int(reply.get("seq", 0))
    if sequence < stored_up_to + len(made.frames):
        return 0, OutcomeUnknown(f"the stream went back to {sequence} from {stored_up_to}: it was made anew")
    return sequence, None


def _parsed(answer: Msg) -> dict[str, Any]:
    try:
        reply = json.loads(answer.data)
    except ValueError:
        reply = None
    return reply if isinstance(reply, dict) else {"error": {"description": f"unclear answer {answer.data[:100]!r}"}}


def _problem(reply: dict[str, Any], stream: str) -> BrokerError | None:
    """Sort what JetStream says to a publish; Fenced here means that the fence is to be looked at."""
    error = reply.get("error")
    if error is None:
        return None
    return problem_of(int(error.get("err_code", 0)), str(error.get("description")), stream=stream)
