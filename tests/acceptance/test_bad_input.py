"""Bad input, one by one, and what its user sees: a dead letter, a sentence, an exit code; never a lost account.

One gateway process serves one account for each thing that a hub can say wrong. Whatever it is, what was emitted
before and after is published, the connection stands, and the account is live.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import nats
import pytest
import pytest_asyncio
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from gateway.broker.jetstream.embedded import EmbeddedServer
from gateway.simulator import Failure, Injection, Simulator, SimulatorConfig, simulator
from tests.support.gateway_process import GATEWAY, Process, process, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

Way = Literal["pushed", "found at the start", "found by the audit", "found as a text"]
WAYS: Final[tuple[Way, ...]] = ("pushed", "found at the start", "found by the audit", "found as a text")
TIMEOUT_S: Final = 10.0
ORDER: Final = (
    '{"OrderId":7,"BrokerAccountId":"U1000","ExecPlanId":null,"LegGroupId":null,"StrategyId":1,"StrategyName":"S1",'
    '"State":1,"FilledQty":0.10,"RemainingQty":null,"FillPrice":null,"AvgFillPrice":null,"Rejection":null,'
    '"EventId":"$ID","EventSeqId":$SEQUENCE,"EventTime":"$TIME"}'
)


def order(old: str, new: str) -> bytes:
    assert old in ORDER
    return ORDER.replace(old, new).encode()


@dataclass(frozen=True)
class Bad:
    """Something that a hub should not say, and what is to become of it."""

    raw: bytes
    reason: str
    right: str
    """Words of the dead letter that say what would be right."""
    numbered: bool = True
    """Whether its number can be read from what is pushed; around an entry of the history there is a sound one."""
    callback: str = "OnOrderUpdate"
    in_history: tuple[str, ...] = ()
    """The reasons there, where they are others: an entry may hold its payload as a text."""


BAD: Final = {
    "a number": Bad(
        b"7", "invalid-payload", "would be right", numbered=False, in_history=("malformed-envelope", "malformed-json")
    ),
    "a text": Bad(
        b'"filled"',
        "invalid-payload",
        "would be right",
        numbered=False,
        in_history=("malformed-envelope", "malformed-json"),
    ),
    "a list": Bad(
        b"[1,2]",
        "invalid-payload",
        "would be right",
        numbered=False,
        in_history=("malformed-envelope", "malformed-json"),
    ),
    "null": Bad(
        b"null",
        "invalid-payload",
        "would be right",
        numbered=False,
        in_history=("malformed-envelope", "malformed-json"),
    ),
    "EventSeqId as a word": Bad(
        order("$SEQUENCE", '"no. $SEQUENCE"'),
        "invalid-payload",
        "an integer, or a text with one, would be right",
        numbered=False,
    ),
    "EventSeqId beyond 64 bits": Bad(
        order("$SEQUENCE", "9223372036854775808"), "invalid-payload", "9223372036854775807", numbered=False
    ),
    "NaN": Bad(order("0.10", "NaN"), "malformed-json", "a number or null would be right"),
    "a member twice": Bad(order('"State":1', '"State":1,"State":2'), "duplicate-member", "once would be right"),
    "EventSeqId twice": Bad(
        order('"EventSeqId"', '"EventSeqId":1,"EventSeqId"'), "duplicate-member", "once would be right", numbered=False
    ),
    "nesting 10,000 deep": Bad(
        order('null,"LegGroupId"', "[" * 10_000 + "]" * 10_000 + ',"LegGroupId"'),
        "beyond-limits",
        "fewer would be right",
    ),
    "invalid UTF-8": Bad(ORDER.encode().replace(b'"S1"', b'"S\xff\xc01"'), "malformed-json", "UTF-8 would be right"),
    "a lone surrogate": Bad(order('"S1"', '"S\\ud800"'), "malformed-json", "both halves would be right"),
    "broken JSON": Bad(order('"State":1', '"State":'), "malformed-json", "JSON would be right"),
    "an unknown callback": Bad(ORDER.encode(), "unknown-kind", "would be right", callback="OnMarginCall"),
}
LARGE: Final = {
    "sound": ORDER.replace('"S1"', json.dumps("x" * 5_000_000)).encode(),
    "not": ORDER.replace('"S1"', json.dumps("x" * 5_000_000) + ',"X":NaN').encode(),
}
NOT_JSON: Final = {"NaN", "nesting 10,000 deep", "invalid UTF-8", "a lone surrogate", "broken JSON"}
CASES: Final = [(what, way) for what in BAD for way in WAYS if way != "found as a text" or what in NOT_JSON]
OTHER: Final = ("status", "exception", "large-sound", "large-not", "envelope", "record", "healthy")
BAD_FILES: Final = {
    "empty": ("is empty", "API key"),
    "newline": ("is empty", "API key"),
    "unreadable": ("cannot be read", "API key"),
    "two words": ("is not an account's name", "letters, digits"),
    "b.c": ("is not an account's name", "letters, digits"),
    "*": ("is not an account's name", "letters, digits"),
}


NO_URLS: Final = (
    "",
    "hub",
    "api.example.com",
    "ftp://api.example.com",
    "https://",
    "https://:443",
    "https://[::1",
    "https://api.example.com:99999",
    "https://api.example.com:port",
    "https://api.example.com?key=a-secret-key",
    "https://user:a-secret-key@api.example.com",
    "https://api.example .com",
)


def account_of(what: str, way: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in f"{what}-{way}")


@dataclass
class House:
    """A hub in this process, a nats-server, and a gateway process that serves all accounts."""

    hub: Simulator
    stream: JetStreamContext
    gateway: Process
    servers: str
    folder: Path
    emitted: Counter[str] = field(default_factory=Counter)

    async def log(self, account: str) -> list[tuple[str, dict[str, str], dict[str, Any]]]:
        """Return kind, headers and value of each message of an account, in the stream's order."""
        found: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        at = 1
        while True:
            try:
                message = await self.stream.get_msg(
                    "mesolive-gateway", at, subject=f"mesolive.events.*.v1.{account}", next=True
                )
            except NotFoundError:
                return found
            assert message.seq is not None
            assert message.subject is not None
            at = message.seq + 1
            value = json.loads(message.data or b"null")
            found.append((message.subject.split(".")[2], dict(message.headers or {}), value))

    async def events(self, account: str) -> list[int]:
        others = {"dead-letter", "notifications"}
        return [value["EventSeqId"] for kind, _, value in await self.log(account) if kind not in others]

    async def letters(self, account: str) -> list[tuple[dict[str, str], dict[str, Any]]]:
        return [(headers, value) for kind, headers, value in await self.log(account) if kind == "dead-letter"]

    async def has(self, account: str, events: set[int], letters: int) -> None:
        """Wait until the log has these events and so many dead letters."""

        async def holds() -> bool:
            return events <= set(await self.events(account)) and len(await self.letters(account)) >= letters

        try:
            await until(holds, "the log is complete", TIMEOUT_S)
        except AssertionError:
            found = [(kind, value.get("EventSeqId"), value.get("Reason")) for kind, _, value in await self.log(account)]
            logged = [line for line in self.gateway.stderr.splitlines() if f'"{account}"' in line]
            raise AssertionError(
                f"{account}: wanted events {events} and {letters} dead letters, found {found}; "
                f"{dict(self.hub.user(account).counts)}; the gateway said {logged[-4:]}"
            ) from None

    async def is_live(self, account: str) -> None:
        """See an event published that the history does not show, after audits, over the first connection."""
        await self.quiet(account)
        user = self.hub.user(account)
        self.hub.patch_faults(account, history_lag=60)
        user.emit(1)
        await self.has(account, {user.history.sequences[-1]}, 0)
        self.hub.patch_faults(account, history_lag=None)
        assert user.counts["connects"] == 1

    async def quiet(self, account: str) -> None:
        """Wait until the gateway has looked at the hub twice more, so that it could have published something again."""
        user = self.hub.user(account)
        seen = user.counts["GetLatestEventSeqId"]
        await until(lambda: user.counts["GetLatestEventSeqId"] >= seen + 2, "two audits", TIMEOUT_S)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("bad-input")
    accounts = [account_of(what, way) for what, way in CASES] + list(OTHER)
    keys = folder / "accounts"
    write_keys(keys, dict.fromkeys(accounts))
    spoil(keys)
    config = SimulatorConfig(users={account: f"key-of-{account}" for account in accounts}, seed=7)
    async with EmbeddedServer(folder / "nats") as server, simulator(config) as hub:
        for what, way in CASES:
            prepare(hub, account_of(what, way), BAD[what], way)
        settings = write_config(folder, hub.url, server.url, keys)
        client = await nats.connect(server.url)
        try:
            async with process(folder, GATEWAY, "run", "--config", settings) as gateway:
                yield House(hub, client.jetstream(), gateway, server.url, folder)
        finally:
            await client.close()


def prepare(hub: Simulator, account: str, bad: Bad, way: Way) -> None:
    """Let the account have a history: two events, or two before and two after what is bad."""
    user = hub.user(account)
    if way == "found as a text":
        hub.patch_faults(account, payload_as="text")
    user.emit(2)
    if way.startswith("found") and way != "found by the audit":
        user.inject(Injection(bad.raw, bad.callback, push=False, history="payload"))
        user.emit(2)


def write_keys(folder: Path, keys: dict[str, None]) -> None:
    folder.mkdir()
    for account in keys:
        (folder / account).write_text(f"key-of-{account}\n")


def spoil(folder: Path) -> None:
    """Put into the directory of accounts what is no account."""
    (folder / "empty").write_bytes(b"")
    (folder / "newline").write_bytes(b"\n")
    for name in ("two words", "b.c", "*"):
        (folder / name).write_text("a-secret-key\n")
    unreadable = folder / "unreadable"
    if os.geteuid():
        unreadable.write_text("a-secret-key\n")
        unreadable.chmod(0)
    else:  # root reads everything; but nobody reads a process's memory from 0 on
        unreadable.symlink_to("/proc/self/mem")


def write_config(folder: Path, hub: str, servers: str, keys: Path) -> Path:
    file = folder / "gateway.yaml"
    settings = {
        "hub": {"url": hub, "call_timeout": 3},
        "accounts": {"directory": str(keys)},
        "session": {"history_grace": 0.3, "audit_interval": 0.5},
        "broker": {"servers": [servers]},
        "log": {"format": "json"},
    }
    file.write_text(json.dumps(settings))
    return file


def run(command: str, config: Path) -> subprocess.CompletedProcess[str]:
    """Run `gateway check` or `gateway run` to its end; after 10 s it is ended, and the code is negative."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GATEWAY_")}
    arguments = [str(GATEWAY), command, "--config", str(config)]
    arguments = ["timeout", "--signal=KILL", "60", *arguments]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, env=clean)


# What the operator says -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "url"),
    [
        ("run", "hub"),
        ("run", "https://api.example.com:99999"),
        *(("check", url) for url in NO_URLS),
    ],
)
async def test_a_hub_url_that_is_none_ends_the_command_with_2_and_a_remedy(
    tmp_path: Path, command: str, url: str
) -> None:
    (tmp_path / "accounts").mkdir()
    config = write_config(tmp_path, url, "nats://127.0.0.1:1", tmp_path / "accounts")
    found = await asyncio.to_thread(run, command, config)

    assert found.returncode == 2, found.stderr
    (line,) = found.stderr.splitlines()
    assert line.startswith("gateway: hub.url")
    assert "https://api.example.com" in line.replace(repr(url), "")
    assert "a-secret-key" not in found.stderr + found.stdout


@pytest.mark.parametrize("command", ["check", "run"])
async def test_a_directory_of_accounts_that_is_not_there_ends_the_command_with_2(tmp_path: Path, command: str) -> None:
    config = write_config(tmp_path, "http://127.0.0.1:1", "nats://127.0.0.1:1", tmp_path / "nowhere")
    found = await asyncio.to_thread(run, command, config)
    assert found.returncode == 2, found.stderr
    assert found.stderr.startswith(f"gateway: accounts.directory: {tmp_path / 'nowhere'} cannot be read")
    assert "Name a directory that holds one file an account" in found.stderr


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def checked(house: House, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """`gateway check` with one good account and every file that is none."""
    folder = tmp_path_factory.mktemp("check")
    write_keys(folder / "accounts", {"healthy": None})
    spoil(folder / "accounts")
    return await asyncio.to_thread(
        run, "check", write_config(folder, house.hub.url, house.servers, folder / "accounts")
    )


@pytest.mark.parametrize("name", BAD_FILES)
async def test_check_names_a_file_that_is_no_account_with_fault_and_remedy(
    checked: subprocess.CompletedProcess[str], name: str
) -> None:
    found = checked
    wrong, right = BAD_FILES[name]
    (line,) = [line for line in found.stdout.splitlines() if f"accounts.directory/{name} " in line.replace(":", " ")]
    assert found.returncode == 1
    assert [line for line in found.stdout.splitlines() if line.startswith("ok    account healthy")]
    assert line.startswith("FAIL")
    assert wrong in line
    assert right in line
    assert "a-secret-key" not in found.stdout + found.stderr


async def test_run_serves_the_others_and_says_which_file_is_no_account(house: House) -> None:
    house.hub.user("healthy").emit(1)
    await house.has("healthy", {1}, 0)
    logged = [json.loads(line) for line in house.gateway.stderr.splitlines() if line.startswith("{")]
    problems = {line["entry"]: line["problem"] for line in logged if "entry" in line}
    assert set(problems) == set(BAD_FILES)
    assert [name for name, (wrong, _) in BAD_FILES.items() if wrong not in problems[name]] == []
    assert "a-secret-key" not in house.gateway.stderr + house.gateway.stdout


# What the hub says ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "way"), CASES)
async def test_what_cannot_be_decoded_becomes_one_dead_letter_and_that_is_all(
    house: House, what: str, way: Way
) -> None:
    account, bad = account_of(what, way), BAD[what]
    user = house.hub.user(account)
    if way in {"pushed", "found by the audit"}:
        await house.has(account, {1, 2}, 0)
        is_push = way == "pushed"
        user.inject(Injection(bad.raw, bad.callback, push=is_push, history="no" if is_push else "payload"))
        user.emit(2)
    sent = base64.b64decode(next(line["raw"] for line in map(json.loads, user.emitted()) if "raw" in line))

    await house.has(account, {1, 2, 4, 5}, 1)
    await house.is_live(account)  # which takes two audits at least
    events, letters = await house.events(account), await house.letters(account)

    assert Counter(events) == dict.fromkeys([1, 2, *range(4, len(events) + 2)], 1)
    assert events == sorted(events)
    assert len(letters) == 1
    ((headers, letter),) = letters
    raw = base64.b64decode(letter["Raw"])
    if way == "found as a text":
        text = sent.decode(errors="surrogateescape")
        sent = json.dumps(text, ensure_ascii=False).encode(errors="surrogateescape")
    assert sent in raw  # the argument or the record, the entry or the page: whatever it took
    assert letter["Reason"] == headers["ce-reason"]
    assert letter["Reason"] in ((way != "pushed" and bad.in_history) or (bad.reason,))
    assert bad.right in letter["Detail"]
    assert letter["Place"] in ({bad.callback, "record"} if way == "pushed" else {"GetEventsSince"})
    assert letter["EventSeqId"] == (3 if bad.numbered or way != "pushed" else None)
    assert letter["Size"] == len(raw)
    assert letter["Truncated"] is False


@pytest.mark.parametrize("sound", ["sound", "not"])
async def test_a_text_of_5_megabytes_is_a_dead_letter_with_digest_and_prefix(house: House, sound: str) -> None:
    account = f"large-{sound}"
    user = house.hub.user(account)
    user.emit(2)
    user.inject(Injection(LARGE[sound], history="payload"))
    user.emit(2)

    await house.has(account, {1, 2, 4, 5}, 1)
    await house.is_live(account)
    ((_, letter),) = await house.letters(account)

    assert letter["Reason"] == "too-large"
    assert letter["Truncated"] is True
    assert letter["EventSeqId"] == 3
    assert letter["Size"] > 5_000_000
    prefix = base64.b64decode(letter["Raw"])
    assert 1_000 < len(prefix) < 1_000_000
    assert prefix.startswith(b"{")
    if sound == "not":  # nothing but what the hub said is there to be kept
        (sent,) = [base64.b64decode(line["raw"]) for line in map(json.loads, user.emitted()) if "raw" in line]
        assert sent[:1_000] in prefix  # as the history has it, in an envelope: the push waited for that
        assert letter["Size"] > len(sent)


async def test_an_entry_of_the_history_that_is_no_envelope_becomes_a_dead_letter(house: House) -> None:
    user = house.hub.user("envelope")
    user.emit(2)
    entries = (
        b"7",
        b'"x"',
        b"null",
        b'{"EventSeqId":$SEQUENCE}',
        b'{"EventType":7,"Payload":{},"EventSeqId":$SEQUENCE}',
    )
    for entry in entries:
        user.inject(Injection(entry, push=False, history="envelope"))
    user.emit(1)

    await house.has("envelope", {1, 2, 8}, len(entries))
    await house.is_live("envelope")
    letters = [letter for _, letter in await house.letters("envelope")]
    assert sorted(base64.b64decode(letter["Raw"]) for letter in letters) == sorted(
        entry.replace(b"$SEQUENCE", b"%d" % number) for number, entry in enumerate(entries, start=3)
    )
    assert {letter["Place"] for letter in letters} == {"GetEventsSince"}
    assert {letter["Reason"] for letter in letters} <= {"malformed-envelope", "unknown-kind"}
    assert {letter["EventSeqId"] for letter in letters} == {None, 6, 7}


async def test_a_record_that_is_none_becomes_a_dead_letter(house: House) -> None:
    user = house.hub.user("record")
    await house.has("record", set(), 0)
    user.emit(2)
    await house.has("record", {1, 2}, 0)
    records = (b"not JSON", b"7", b'{"type":1,"target":"OnError"', b'{"type":1,"target":"OnError","arguments":[1,2]}')
    for record in records:
        user.inject(Injection(record, is_record=True, numbered=False))
    user.emit(1)

    await house.has("record", {1, 2, 3}, len(records))
    await house.is_live("record")
    letters = [letter for _, letter in await house.letters("record")]
    assert len(letters) == len(records)
    found = {base64.b64decode(letter["Raw"]) for letter in letters}
    assert found >= set(records[:3])


@pytest.mark.parametrize("way", ["status", "exception"])
async def test_an_error_as_answer_costs_time_but_no_connection_and_no_event(house: House, way: str) -> None:
    user = house.hub.user(way)
    user.emit(2)
    await house.has(way, {1, 2}, 0)
    for method in ("GetEventsSince", "GetLatestEventSeqId"):
        failure = Failure(method, count=2, hub_exception=None if way == "status" else "the hub is unwell")
        user.failures.append(failure)
    house.hub.patch_faults(way, drop=1)
    user.emit(3)
    await house.has(way, {1, 2, 3, 4, 5}, 0)
    house.hub.patch_faults(way, drop=None)

    await house.is_live(way)
    assert user.failures == []
    assert await house.letters(way) == []
    text = "status 4, code INTERNAL: try again" if way == "status" else "the hub is unwell"
    assert any(text in line and f'"{way}"' in line for line in house.gateway.stderr.splitlines())
