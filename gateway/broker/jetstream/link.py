"""One live connection to NATS, from its first answer until it is lost; it is never used again afterwards.

Every caller that waits on a link learns of its loss at once, and nothing written to it can reach a later one. So for a
caller that keeps a link, all its messages went over one connection.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final
from uuid import uuid4

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from gateway.broker.jetstream import client_internals
from gateway.errors import BrokerError, Unavailable

API: Final = "$JS.API"
"""What the subjects of JetStream's API begin with in the account that has the streams."""
_REPEAT: Final = 0.5
"""Seconds until a call of JetStream's API is made again."""
_REFUSED: Final = re.compile(r'permissions violation for \w+ to "([^"]*)"')
_POLL_INTERVAL_S: Final = 0.25
"""Seconds between two looks at whether bytes flow."""
_FOR_EVER: Final = 24 * 3600
_CLOSING: Final = 1.0
"""Seconds for a farewell before the socket is dropped."""
_CLOSING_UNGREETED: Final = 0.1
"""The same where the login failed: after a failed TLS handshake nats-py waits for ever for the socket's end."""


class PermissionDenied(Unavailable):
    """The server refused to let this user publish or subscribe."""


class NoResponders(Unavailable):
    """Nobody listens on the subject: no JetStream, or no stream that takes it."""


class JetStreamApiError(Unavailable):
    """JetStream answered with an error."""

    def __init__(self, call: str, error: Mapping[str, Any]) -> None:
        """`error` as JetStream gives it: `code` (as in HTTP), `err_code` (which one), `description`."""
        super().__init__(f"{call}: {error.get('description')} (error {error.get('err_code')})")
        self.status = int(error.get("code", 0))
        self.code = int(error.get("err_code", 0))
        self.description = str(error.get("description", ""))


class ReplyInbox:
    """A subject of one's own on which answers arrive, for as long as the context lasts."""

    def __init__(self, subject: str, subjects: Iterable[str]) -> None:
        self.subject = subject
        """To be given as the reply subject."""
        self._expected: dict[str, str] = {}
        self._received: asyncio.Queue[Msg | BrokerError] = asyncio.Queue()
        self.expect(subjects)

    def expect(self, subjects: Iterable[str]) -> None:
        """Note what is published to: the server's refusal of it is for this inbox, too."""
        self._expected |= {subject.lower(): subject for subject in subjects}

    async def next(self) -> Msg:
        """Wait for the next answer.

        Raises:
            Unavailable: the link was lost.
            PermissionDenied: the server does not let this user publish where the answer was to come from.

        """
        answer = await self._received.get()
        if isinstance(answer, BrokerError):
            raise answer
        return answer

    def received(self, message: Msg | BrokerError) -> None:
        """Put an answer, or the reason why none can come any more."""
        self._received.put_nowait(message)

    def refusals(self) -> list[str]:
        """Return the refusals so far for which no caller waited."""
        answers = [self._received.get_nowait() for _ in range(self._received.qsize())]
        return [str(one) for one in answers if isinstance(one, PermissionDenied)]

    def denied(self, subject: str) -> None:
        """Note that a subject is refused (as nats-py has it, in small letters), if it is one of this inbox's."""
        if subject == self.subject.lower():
            self.received(PermissionDenied(f'NATS refuses to let this user subscribe to "{self.subject}"'))
        elif subject in self._expected:
            self.received(PermissionDenied(f'NATS refuses to let this user publish to "{self._expected[subject]}"'))


class _Line:
    """Whether bytes flow over a connection: on a slow line every answer waits for what was sent before."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._then = client_internals.traffic_of(client)
        self._mark = None if self._then is None else self._then.taken + self._then.waiting

    @property
    def is_sent(self) -> bool:
        """Whether all was taken by the peer's machine that waited at first, as far as was looked."""
        return self._mark is None or (self._then is not None and self._then.taken >= self._mark)

    def moves(self) -> tuple[bool, bool]:
        """Return whether the peer took a byte since the last look, and whether one came."""
        then, now = self._then, client_internals.traffic_of(self._client)
        self._then = now
        if then is None or now is None:
            return False, False
        return now.taken > then.taken, now.received > then.received


class Link:
    """A connected client with one inbox for all answers."""

    def __init__(self, client: Client, *, timeout: float, api_prefix: str = API) -> None:
        self.client = client
        """For what the gateway's own calls do not cover, such as key-value buckets; replaced when lost."""
        self.api_prefix = api_prefix
        """What the subjects of JetStream's API begin with here: another account imports them under another name."""
        self.timeout = timeout
        """Seconds that any one call may take."""
        self._lost = asyncio.Event()
        self._why = "the connection to NATS was lost"
        self._inboxes: dict[str, ReplyInbox] = {}
        self._inbox = ""
        self._closed_inboxes = False

    @property
    def api_hint(self) -> str:
        """Return what may be wrong where the API has no subscriber, as the end of a sentence; mostly nothing."""
        return "" if self.api_prefix == API else "; broker.api_prefix must be what the account imports the API as"

    async def begin(self) -> None:
        """Subscribe to the inbox; raises Unavailable, PermissionDenied."""
        self._inbox = self.client.new_inbox()  # not before: it is the connecting client that learns its prefix
        with _as_unavailable("subscribe"):
            await self.client.subscribe(f"{self._inbox}.*", cb=self._on_message, pending_bytes_limit=0)
            await self._wait_for_refusals()
        if self._closed_inboxes:
            raise PermissionDenied(self._why)

    async def _wait_for_refusals(self) -> None:
        """Wait until the server has sent every refusal of what was requested of it so far.

        nats-py writes the first ping before what waits to be sent, and the second one after it, so that a refusal comes
        before its pong.
        """
        await client_internals.bounded_call(self.client.flush(), self.timeout)
        await client_internals.bounded_call(self.client.flush(), self.timeout)

    @property
    def max_payload(self) -> int:
        """Bytes that the server takes as headers and payload of one message."""
        return int(self.client.max_payload)

    @property
    def server_version(self) -> str:
        """The version that the server gives itself."""
        version = self.client.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    @property
    def is_lost(self) -> bool:
        """True for good once the connection ended or fell silent."""
        return self._lost.is_set()

    @contextmanager
    def open_inbox(self, *to: str) -> Iterator[ReplyInbox]:
        """Yield an inbox for what `to` answers."""
        if self.is_lost:
            raise Unavailable(self._why)
        token = uuid4().hex
        inbox = self._inboxes[token] = ReplyInbox(f"{self._inbox}.{token}", to)
        try:
            yield inbox
        finally:
            del self._inboxes[token]

    @asynccontextmanager
    async def hints(self, subjects: str) -> AsyncIterator[asyncio.Event]:
        """Yield an event that is set whenever a message is published under `subjects`, stored or not.

        Raises Unavailable. Where this user may not subscribe, a line is logged, and no hint comes.
        """
        hint = asyncio.Event()

        async def on_message(_: Msg) -> None:
            hint.set()

        with _as_unavailable("subscribe"):
            subscription = await self.client.subscribe(subjects, cb=on_message, pending_bytes_limit=0)
        try:
            yield hint
        finally:
            if not self.is_lost:
                with suppress(Unavailable), _as_unavailable("unsubscribe"):
                    await subscription.unsubscribe()

    async def send(self, frames: Sequence[bytes]) -> None:
        """Write whole protocol frames in one go; raises Unavailable where the link is seen to be lost."""
        if self.is_lost:
            raise Unavailable(self._why)
        with _as_unavailable("send"):
            await client_internals.write(self.client, b"".join(frames))

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Write one message without waiting for anything."""
        if self.is_lost:
            raise Unavailable(self._why)
        with _as_unavailable(subject):
            await self.client.publish(subject, payload, reply=reply, headers=headers)

    async def ask(self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None) -> Msg:
        """Send a request and give its answer.

        Raises Unavailable: the link was lost, or nothing came in time, and then the request may still be
        served; PermissionDenied; NoResponders.
        """
        with self.open_inbox(subject) as inbox, _as_unavailable(subject):
            async with self.time_limit():
                await self.client.publish(subject, payload, reply=inbox.subject, headers=headers)
                answer = await inbox.next()
        if has_no_responders(answer):
            raise NoResponders(f"nobody serves {subject}")
        return answer

    async def api(self, call: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call JetStream's API (`STREAM.INFO.x`), again and again until it answers: each call of ours may be repeated.

        The API has no server while a stream elects its leader, 4 to 9 s after the last one died, and a request sent
        meanwhile is never answered. Raises as `ask`, and JetStreamApiError for an error in the answer.
        """
        subject = f"{self.api_prefix}.{call}"
        payload = json.dumps(body).encode() if body is not None else b""
        with self.open_inbox(subject) as inbox, _as_unavailable(subject):
            async with self.time_limit():
                while True:
                    await self.client.publish(subject, payload, reply=inbox.subject)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_REPEAT):
                            answer = await inbox.next()
                            break
        if has_no_responders(answer):
            raise NoResponders(f"nobody serves {subject}{self.api_hint}")
        return result_of(call, answer)

    async def refused(self, subjects: Sequence[str]) -> list[str]:
        """Return a refusal for each of `subjects` that this user may not publish to; nothing is stored anywhere.

        The messages expect a stream whose name none can have, so that every stream refuses them. Raises Unavailable.
        """
        with self.open_inbox(*subjects) as inbox, _as_unavailable("publish"):
            for subject in subjects:
                await self.client.publish(subject, headers={"Nats-Expected-Stream": "."})
            await self._wait_for_refusals()
            return inbox.refusals()

    @asynccontextmanager
    async def time_limit(self) -> AsyncIterator[None]:
        """Raise TimeoutError in the block after `timeout` seconds, which begin once what it sends is on its way.

        Over a slow line that takes its time. Where no byte is taken for `timeout` seconds, the peer is gone.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.timeout) as limit:
            line: _Line | None = None
            looking: asyncio.TimerHandle

            def look() -> None:
                nonlocal line, looking
                if line is None:
                    line = _Line(self.client)
                elif line.moves()[0] and not limit.expired():
                    limit.reschedule(loop.time() + self.timeout)
                if not line.is_sent:
                    looking = loop.call_later(_POLL_INTERVAL_S, look)

            looking = loop.call_later(_POLL_INTERVAL_S, look)
            try:
                yield
            finally:
                looking.cancel()

    async def api_many(
        self, call: str, bodies: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any] | JetStreamApiError]:
        """Make one call with many bodies at once; the results come in no particular order.

        Raises as `ask`.
        """
        subject = f"{self.api_prefix}.{call}"
        results: list[dict[str, Any] | JetStreamApiError] = []
        with self.open_inbox(subject) as inbox, _as_unavailable(subject):
            async with self.time_limit():
                for body in bodies:
                    await self.client.publish(subject, json.dumps(body).encode(), reply=inbox.subject)
                for _ in bodies:
                    answer = await inbox.next()
                    if has_no_responders(answer):
                        raise NoResponders(f"nobody serves {subject}{self.api_hint}")
                    try:
                        results.append(result_of(call, answer))
                    except JetStreamApiError as refusal:
                        results.append(refusal)
        return results

    async def watch(self, interval: float) -> None:
        """Return when the link is lost; it is, too, when a ping finds no answer in `interval` seconds."""
        while not self.is_lost:
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._lost.wait()
                    return
            # A pong that comes after this gave up would end nats-py's read loop (it sets a cancelled future), so a
            # link is never used again after a silence.
            try:
                with _as_unavailable("ping"):
                    await self._pinged(interval)
            except Unavailable as error:
                self.lose(f"NATS did not answer a ping within {interval:g} s: {error}")

    async def _pinged(self, interval: float) -> None:
        """Wait for the answer to a ping as long as bytes flow before it; raises TimeoutError after a silence."""
        line = _Line(self.client)
        await client_internals.bounded_call(self.client.flush(_FOR_EVER), interval, lambda: any(line.moves()))

    def lose(self, why: str) -> None:
        """Wake every caller that waits on this link, since the link is gone."""
        if not self.is_lost:
            self._why = why
            self._lost.set()
            for inbox in self._inboxes.values():
                inbox.received(Unavailable(why))

    def violated(self, violation: str) -> None:
        """Note that the server refused a publish or a subscription, now or after its permissions changed."""
        found = _REFUSED.search(violation)
        subject = found[1] if found else ""
        if subject == f"{self._inbox}.*".lower():  # no answer can come any more
            self._closed_inboxes = True
            self.lose(f'NATS refuses to let this user subscribe to "{self._inbox}.*"')
        for inbox in self._inboxes.values():
            inbox.denied(subject)

    async def close(self) -> None:
        """Close the connection and drop the socket; never waits for long."""
        self.lose("the connection to NATS was closed")
        limit = _CLOSING if self.client.is_connected else _CLOSING_UNGREETED
        try:
            with suppress(Unavailable), _as_unavailable("close"):
                await client_internals.bounded_call(self.client.close(), limit)
        finally:
            client_internals.abort(self.client)

    async def _on_message(self, message: Msg) -> None:
        inbox = self._inboxes.get(message.subject[len(self._inbox) + 1 :])
        if inbox is not None:
            inbox.received(message)


def has_no_responders(message: Msg) -> bool:
    """Return whether the server answered in place of a listener that is not there."""
    return not message.data and message.headers is not None and message.headers.get("Status") == "503"


def result_of(call: str, answer: Msg) -> dict[str, Any]:
    """Read an answer of JetStream; raises JetStreamApiError, or Unavailable where it is no answer."""
    try:
        result = json.loads(answer.data)
    except ValueError as error:
        raise Unavailable(f"{call}: the answer is not JSON: {answer.data[:100]!r}") from error
    if "error" in result:
        raise JetStreamApiError(call, result["error"])
    return dict(result)


@contextmanager
def _as_unavailable(what: str) -> Iterator[None]:
    """Turn the errors of nats-py and of the socket into Unavailable: the one place that handles them."""
    try:
        yield
    except TimeoutError as error:
        raise Unavailable(f"{what}: NATS did not answer in time") from error
    except (nats.errors.Error, OSError, RuntimeError) as error:  # uvloop: RuntimeError on a closed transport
        raise Unavailable(f"{what}: {error}") from error
