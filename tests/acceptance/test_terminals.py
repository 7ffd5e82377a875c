"""Every command, fed with texts that a terminal would obey by every way in, on a terminal and into a pipe."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import nats
import pytest

from tests.support.gateway_process import GATEWAY, process
from tests.support.nasty import SURROGATE, TEXTS, judge
from tests.support.nats_server import NatsServer
from tests.support.on_terminal import run

ALL: Final = [*TEXTS.values(), SURROGATE]
PORTS: Final = {"GATEWAY_CONTROL__PORT": "0", "GATEWAY_MONITORING__PORT": "0"}
AS_ARGUMENT: Final = "".join(TEXTS[name] for name in ("title", "clear", "eight bits", "line", "order", "markup"))
NOW: Final = "2026-11-22T13:32:25Z"


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def is_terminal(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@contextmanager
def answering(answers: dict[str, Any], status: int = 200) -> Iterator[str]:
    """Answer each request by the beginning of `METHOD /path` with JSON, or the text of a reason; return the URL."""

    class Answer(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = f"{self.command} {self.path}"
            found = next((body for start, body in answers.items() if asked.startswith(start)), None)
            body = json.dumps(found).encode()
            self.send_response(404 if found is None else status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer  # noqa: N815 - the library's names

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


def account(text: str) -> dict[str, Any]:
    """Return an account as the API would, if it let such texts be."""
    seen = {"state": text, "since": text, "owner": text, "settled": 1, "lag": {"sequences": 1}, "age_seconds": 1.0}
    desired = {"strategies": [text], "state": text}
    return {
        "account": text,
        "observed": seen | {"is_stale": False, "last_error": text},
        "desired": desired,
        "is_applied": False,
    }


def replay(text: str, state: str = "completed") -> dict[str, Any]:
    """Return a replay likewise."""
    progress = {"fraction": 0.5, "published": 1, "seconds_left": None, "events_per_second": 1.0}
    record = dict.fromkeys(("id", "account", "until", "requested_by", "requested_at", "detail"), text)
    return record | {"state": state, "since": 1, "progress": progress}


def gateway(
    *arguments: str | Path, is_terminal: bool, folder: Path, until: str | None = None, **env: str
) -> tuple[int, str]:
    """Run a command; nothing that it writes is obeyed, and there is no traceback."""
    command = [GATEWAY, *arguments]
    code, output = run(command, is_terminal=is_terminal, folder=folder, env={**PORTS, **env}, until=until)
    output = output.replace("\r\n", "\n") if is_terminal else output
    assert judge(output, is_terminal=is_terminal) == []
    assert "Traceback" not in output
    return code, output


# The API's words ---------------------------------------------------------------------------------------------


def test_accounts(is_terminal: bool, tmp_path: Path) -> None:
    page = {"items": [account(text) for text in ALL], "next": None}
    with answering({"GET /v1/accounts": page}) as url:
        code, output = gateway("accounts", "--url", url, is_terminal=is_terminal, folder=tmp_path)
        assert code == 0
        for shown in ("\\x1b]0;n4sty\\x07", "n4sty\\[/x]", "[link=http://evil.example]n4sty[/link]", "n4sty:smile:"):
            assert shown in output
        code, output = gateway("accounts", "--url", url, "--json", is_terminal=is_terminal, folder=tmp_path)
        assert [json.loads(line)["account"] for line in output.splitlines()] == ALL


@pytest.mark.parametrize("status", [200, 401, 404, 422, 500])
def test_the_words_of_an_answer_that_is_none(status: int, is_terminal: bool, tmp_path: Path) -> None:
    problem = {"type": "x", "detail": "".join(ALL), "title": "".join(ALL)}
    with answering({"GET /v1/accounts": problem}, status) as url:
        code, output = gateway("accounts", "--url", url, is_terminal=is_terminal, folder=tmp_path)
    assert code in {1, 2}
    assert output.count("\n") == 1


def test_an_answer_of_another_shape_is_no_traceback(is_terminal: bool, tmp_path: Path) -> None:
    page = {"items": [{"account": "n4sty" + AS_ARGUMENT, "observed": {AS_ARGUMENT: 1}, "desired": AS_ARGUMENT}]}
    with answering({"GET /v1/accounts": page | {"next": None}, "GET /v1/replays": page | {"next": None}}) as url:
        for command in (("accounts",), ("replay", "list")):
            code, output = run([GATEWAY, *command, "--url", url], is_terminal=is_terminal, folder=tmp_path)
            assert code == 1
            assert "does not answer as a gateway's control plane" in output
            assert "Traceback" not in output


def test_replays(is_terminal: bool, tmp_path: Path) -> None:
    page = {"items": [replay(text, text) for text in ALL], "next": None}
    waiting, done = replay(AS_ARGUMENT, "pending"), replay(AS_ARGUMENT)
    with answering({"GET /v1/replays?": page, "GET /v1/replays/": done, "POST /v1": waiting}) as url:
        for command in (
            ("list",),
            ("list", "--json"),
            ("watch", "x"),
            ("cancel", "x"),
            ("start", "main"),
            ("start", "main", "--detach", "--json"),
        ):
            code, _ = gateway("replay", *command, "--url", url, is_terminal=is_terminal, folder=tmp_path)
            assert code == 0


def test_a_name_with_signs_of_a_url_stays_one_part_of_the_path(tmp_path: Path) -> None:
    done = replay("done")
    answers = {"GET /v1/replays/..%2Fx%3Fa%23": done, "POST /v1/replays/..%2Fx%3Fa%23/cancel": done}
    with answering({**answers, "POST /v1/accounts/a%2Fb%3F/replays": done}) as url:
        for command in (("watch", "../x?a#"), ("cancel", "../x?a#"), ("start", "a/b?", "--detach")):
            code, output = run([GATEWAY, "replay", *command, "--url", url], is_terminal=False, folder=tmp_path)
            assert code == 0, output


def test_the_bar_of_a_replay(tmp_path: Path) -> None:
    running = replay(AS_ARGUMENT, "running")
    answers = {"GET /v1/replays/": running}
    timer = threading.Timer(3, lambda: answers.update({"GET /v1/replays/": replay(AS_ARGUMENT)}))
    with answering(answers) as url:
        timer.start()
        code, output = gateway("replay", "watch", "x[/y]", "--url", url, is_terminal=True, folder=tmp_path)
        timer.join()
    assert code == 0
    assert "running: \\x1b]0;n4sty" in output


# Arguments ---------------------------------------------------------------------------------------------------

NASTY: Final = AS_ARGUMENT
WRONG: Final[list[Sequence[str]]] = [
    [NASTY],
    [f"--{NASTY}"],
    ["tail", "--account", NASTY],
    ["tail", "--kind", NASTY],
    ["tail", "--output", NASTY],
    ["tail", "--servers", f"nats://{NASTY}"],
    ["tail", "--prefix", NASTY],
    ["tail", "--broker", NASTY],
    ["tail", NASTY],
    ["tail", f"--{NASTY}"],
    ["accounts", "--url", f"nowhere{NASTY}"],
    ["accounts", "--token-file", NASTY],
    ["accounts", NASTY],
    ["replay", NASTY],
    ["replay", "start", "main", "--since", NASTY],
    ["replay", "start", "main", "--destination", NASTY],
    ["replay", "watch", NASTY, "--url", f"nowhere{NASTY}"],
    ["replay", "list", "--token-file", NASTY],
    ["verify", "--strategies", NASTY],
    ["verify", "--config", NASTY],
    ["check", "--config", NASTY],
    ["run", "--config", NASTY],
    ["token", "--name", NASTY],
    ["token", "--name", "x", "--role", NASTY],
    ["health", "--url", NASTY],
    ["health", "--url", f"http://127.0.0.1:9/{NASTY}"],
    ["simulate", "--user", NASTY.replace("=", "")],
    ["simulate", "--form", NASTY],
    ["simulate", "--user", f"{NASTY}=x", "--host", NASTY],
    ["schemas", "--directory", "s", "--nothing", NASTY],
    ["schemas", "--directory", NASTY, "--check"],
    ["demo", "--events", NASTY],
]


def brief(arguments: Sequence[str]) -> str:
    return " ".join(part.replace(NASTY, "…") for part in arguments)


@pytest.mark.parametrize("arguments", WRONG, ids=brief)
def test_a_wrong_argument(arguments: Sequence[str], tmp_path: Path) -> None:
    for is_terminal in (True, False):
        code, output = run([GATEWAY, *arguments], is_terminal=is_terminal, folder=tmp_path, env=PORTS)
        assert code in {1, 2}, output
        assert judge(f"{output} n4sty", is_terminal=is_terminal) == []  # Typer does not always quote what it refuses
        assert "Traceback" not in output


def test_bytes_that_are_no_text_in_an_argument(is_terminal: bool, tmp_path: Path) -> None:
    _, output = gateway("tail", "--account", os.fsdecode(b"n4sty\x9b2J\xff"), is_terminal=is_terminal, folder=tmp_path)
    assert "\\udc9b2J\\udcff" in output


def test_schemas_into_a_folder_with_such_a_name(is_terminal: bool, tmp_path: Path) -> None:
    code, _ = gateway("schemas", "--directory", NASTY.replace("/", ""), is_terminal=is_terminal, folder=tmp_path)
    assert code == 0


def test_simulate(is_terminal: bool, tmp_path: Path) -> None:
    code, output = gateway(
        "simulate", "--user", f"{NASTY}=key", is_terminal=is_terminal, folder=tmp_path, until="users: "
    )
    assert code == 0
    assert "users: \\x1b]0;n4sty" in output


# Settings and file names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["a name", "a value", "the environment", "a line"])
def test_settings(place: str, is_terminal: bool, tmp_path: Path) -> None:
    file, env = tmp_path / "gateway.yaml", {}
    written = json.dumps(NASTY)  # YAML reads it so
    if place == "a name":
        file.write_text(f"hub: {{{written}: 1}}\n")
    elif place == "a value":
        file.write_text(f"hub: {{url: {written}}}\n")
    elif place == "a line":
        file.write_bytes(b"hub: n4sty\x1b]0;x\x07\n")
    else:
        file.write_text("hub: {url: 'http://127.0.0.1:9'}\n")
        env = {"GATEWAY_TOPICS__RETENTION": NASTY}
    for command in ("check", "run", "verify"):
        settings = (command, "--config", file)
        code, output = run([GATEWAY, *settings], is_terminal=is_terminal, folder=tmp_path, env={**PORTS, **env})
        assert code == 2
        assert judge(f"{output} n4sty", is_terminal=is_terminal) == []
        assert "Traceback" not in output
        assert "Traceback" not in output


def names(folder: Path) -> None:
    """Make files whose names are nasty, in a folder of keys."""
    folder.mkdir()
    for text in TEXTS.values():
        (folder / text.replace("/", "")).write_text("k\n")
    Path(os.fsdecode(os.fsencode(folder) + b"/n4sty\x9b\xff")).write_text("k\n")
    (folder / "main").write_text("key-of-main\n")
    (folder / "main").chmod(0o600)


async def test_names_and_words_of_the_hub(is_terminal: bool, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    names(keys)
    env = {"GATEWAY_ACCOUNTS__DIRECTORY": str(keys), "GATEWAY_LOG__FORMAT": "console"}
    async with NatsServer(tmp_path / "nats") as server:
        env["GATEWAY_BROKER__SERVERS"] = server.url
        with answering({"POST /": {"error": "".join(TEXTS.values())}}) as url:
            env["GATEWAY_HUB__URL"] = url

            def go(*arguments: str, until: str | None = None) -> tuple[int, str]:
                return gateway(*arguments, is_terminal=is_terminal, folder=tmp_path, until=until, **env)

            code, output = await asyncio.to_thread(go, "check")
            assert code == 1
            assert "FAIL  accounts.directory/\\x1b]0;n4sty\\x07: is not an account's name" in output
            assert "negotiate: \\x1b]0;n4sty" in output
            code, output = await asyncio.to_thread(go, "verify")
            assert code == 1
            assert "main: cannot be compared: negotiate: \\x1b]0;n4sty" in output
            code, output = await asyncio.to_thread(go, "run", until="negotiate: ")
            assert code == 0
            assert "invalid entry in accounts.directory" in output


# Records of the broker ---------------------------------------------------------------------------------------


async def test_records(is_terminal: bool, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "main").write_text("key\n")
    async with (
        NatsServer(tmp_path / "nats") as server,
        process(tmp_path, GATEWAY, "simulate", "--user", "main=key", "--rate", "0", name="hub") as hub,
    ):
        env = {
            "GATEWAY_ACCOUNTS__DIRECTORY": str(keys),
            "GATEWAY_BROKER__SERVERS": server.url,
            "GATEWAY_HUB__URL": (await hub.wait_for_output(r"hub: (\S+)\n"))[1],
        }

        def go(*arguments: str) -> tuple[int, str]:
            return gateway(*arguments, is_terminal=is_terminal, folder=tmp_path, **env)

        code, _ = await asyncio.to_thread(run, [GATEWAY, "check"], is_terminal=False, folder=tmp_path, env=env)
        assert code == 0  # the streams are there now
        client = await nats.connect(server.url)
        stream, values = client.jetstream(), []
        for text in ALL:
            raw = text.encode("utf-8", "surrogatepass")
            for value in (
                raw,
                json.dumps({"x": text}, ensure_ascii=False).encode("utf-8", "surrogatepass"),
                json.dumps({"x": text}, indent=1).encode(),
                b'{"n4sty":1}\n{"forged":1}',
                b"[" * 100_000,
            ):
                values.append(value)
                headers = {"Gateway-Key": quote(raw), "ce-id": quote(raw), "ce-note": quote(raw)}
                await stream.publish("mesolive.events.order-update.v1.main", value, headers=headers)
        odd = {"Gateway-Key": "1", "ce-sequence": quote(AS_ARGUMENT)}
        values.append(b"{}")
        await stream.publish("mesolive.events.order-update.v1.main", b"{}", headers=odd)
        odd = {"Gateway-Key": "1", "ce-sequence": "1"}
        values.append(b"[1")
        await stream.publish("mesolive.events.order-update.v1.main", b"[1", headers=odd)
        read = ("tail", "--from", "first", "--no-follow")
        code, output = await asyncio.to_thread(go, *read)
        assert (code, len(output.splitlines())) == (0, len(values))
        code, output = await asyncio.to_thread(go, *read, "--output", "json")
        lines = output.splitlines()
        assert (code, len(lines)) == (0, len(values))
        for line, value in zip(lines, values, strict=True):
            found = json.loads(line)
            if "value" in found:
                assert found["value"] == json.loads(value)
            else:
                assert base64.b64decode(found["value_base64"]) == value
        code, output = await asyncio.to_thread(go, "verify")
        assert (code, "has no number as its sequence, but '\\x1b]0;n4sty" in output) == (1, True)
        notes = "mesolive.events.notifications.v1.main"
        await stream.publish(notes, json.dumps(AS_ARGUMENT).encode(), headers={"Gateway-Key": "1"})
        await client.close()
        code, output = await asyncio.to_thread(run, [GATEWAY, "verify"], is_terminal=False, folder=tmp_path, env=env)
        assert (code, "main: cannot be compared: a notification in the log cannot be read" in output) == (1, True)
