"""What commands say to a newcomer: help that names its options, and one line for what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
from typer.testing import CliRunner

from gateway import __version__
from gateway.bootstrap import terminal
from gateway.cli import demo
from gateway.cli.main import app, main
from gateway.events.schemas import schema_files
from gateway.replica.source.account import AccountState
from tests.support.nasty import TEXTS, judge

SECRET = "s3cret"
OPTIONS = {
    "demo": ["--events", "--rate", "--verbose"],
    "run": ["--config"],
    "health": ["--url"],
    "simulate": ["--user", "--host", "--port", "--rate", "--events", "--prefill", "--form", "--seed", "--paused"],
    "check": ["--config"],
    "tail": ["--kind", "--account", "--from", "--follow", "--output", "--config", "--broker", "--servers", "--prefix"],
    "accounts": ["--url", "--token-file", "--state", "--owner", "--prefix", "--sort", "--json"],
    "token": ["--name", "--role", "--json"],
    "schemas": ["--directory", "--check"],
}
REPLAYS = {
    "start": ["--since", "--until", "--from", "--to", "--kind", "--strategy", "--destination", "--key", "--detach"],
    "watch": ["--url", "--token-file", "--json"],
    "cancel": ["--url", "--token-file", "--json"],
    "list": ["--account", "--state", "--url", "--token-file", "--json"],
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("GATEWAY_HUB__URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GATEWAY_ACCOUNTS__DIRECTORY", "/tmp")  # noqa: S108 - never read
    yield
    structlog.reset_defaults()  # a command configured them for the standard error of this test


RunCommand = Callable[..., tuple[int, str]]


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    """Run a command in this process; give its exit code and what it wrote."""

    def run_command(*arguments: str, **environment: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["gateway", *arguments])
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, output.out + output.err

    return run_command


def test_the_help_names_every_command_with_a_whole_sentence() -> None:
    output = CliRunner().invoke(app, ["--help"]).output

    for command in OPTIONS:
        (line,) = [line for line in output.splitlines() if line.startswith(f"  {command} ")]
        assert line.endswith(".")
        assert not line.endswith("...")


@pytest.mark.parametrize("command", OPTIONS)
def test_the_help_of_a_command_names_its_options_and_says_what_each_does(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])

    assert result.exit_code == 0
    for option in OPTIONS[command]:
        lines = [line for line in result.output.splitlines() if f"{option} " in line and line.startswith("  -")]
        assert lines, f"{option} is not in the help of {command}"
    output = " ".join(result.output.lower().split())
    assert ("exit code" in output) == (command in {"demo", "run", "check", "accounts", "health"})


@pytest.mark.parametrize("command", REPLAYS)
def test_the_help_of_a_command_of_replays_names_its_options_and_exit_codes(command: str) -> None:
    result = CliRunner().invoke(app, ["replay", command, "--help"])

    assert result.exit_code == 0
    for option in REPLAYS[command]:
        assert [line for line in result.output.splitlines() if f"{option} " in line and line.startswith("  -")], option
    assert "exit codes" in " ".join(result.output.lower().split())


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nowhere"])
@pytest.mark.parametrize("arguments", [("start", "main"), ("watch", "x"), ("cancel", "x"), ("list",)])
def test_a_control_plane_that_is_not_there_is_one_line(
    run_command: RunCommand, arguments: tuple[str, ...], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.replay._TRIES", 1)
    code, output = run_command("replay", *arguments, "--url", url)
    assert (code, output.count("\n")) == (2 if url == "nowhere" else 1, 1), output
    assert url in output


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"{__version__}\n"


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("GATEWAY_HUB__URL", "ftp://hub", "hub.url: 'ftp://hub' is no http or https URL"),
        ("GATEWAY_HUB__URL", f"http://h/?access_token={SECRET}", "hub.url: must not have a query"),
        ("GATEWAY_HUB__URL", f"http://me:{SECRET}@hub", "hub.url: must not hold credentials"),
        ("GATEWAY_HUBURL", "x", "GATEWAY_HUBURL: no setting has this name in the environment. Did you mean"),
        ("GATEWAY_SHARD", "8", "Did you mean GATEWAY_SHARDS?"),
        ("GATEWAY_SHARDS", "none", "shards: 'none' should be a valid integer"),
        ("GATEWAY_ACCOUNTS__DIRECTORY", "/nowhere", "accounts.directory: /nowhere cannot be read"),
        ("GATEWAY_CONTROL__TLS__CERT_FILE", "/no/tls.crt", "control.tls.cert_file: /no/tls.crt cannot be read"),
        ("GATEWAY_MONITORING__TLS__CERT_FILE", "/no/tls.crt", "monitoring.tls.cert_file: /no/tls.crt cannot be read"),
        ("GATEWAY_MONITORING__TLS__KEY_FILE", SECRET, "monitoring.tls.cert_file: is not set, and monitoring.tls.key"),
        ("GATEWAY_CONTROL__TLS__CERT_FILE", SECRET, "control.tls.cert_file: what it names (not shown"),
        ("GATEWAY_CONTROL__TRUSTED_PROXIES", "10.0.0.1/8", "'10.0.0.1/8' is no network; write 10.0.0.0/8"),
        ("GATEWAY_HUB__CA_FILE", SECRET, "hub.ca_file: what it names (not shown"),
        ("GATEWAY_HUB__HEADERS_FILE", SECRET, "hub.headers_file: what it names (not shown"),
        ("GATEWAY_HUB__PROXY_FILE", "/no/proxy", "hub.proxy_file: /no/proxy cannot be read"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(
    run_command: RunCommand, command: str, variable: str, value: str, message: str
) -> None:
    code, output = run_command(command, **{variable: value})

    (line,) = [line for line in output.splitlines() if not line.startswith("ok ")]
    assert code == 2
    assert line.startswith("gateway: ")
    assert message in line
    assert SECRET not in output


def test_a_yaml_mistake_is_told_with_its_place(run_command: RunCommand, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("hub:\n  url: http://h\n bad: [\n")
    code, output = run_command("run", "--config", str(file))

    assert code == 2
    assert output == (
        f"gateway: --config: {file} is not YAML: line 3, column 2: "
        "expected <block end>, but found '<block mapping start>'. Mend the file.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tail", "--kind", "order-updat"], "--kind: 'order-updat' is no kind; did you mean order-update?"),
        (["tail", "--kind", "OnOrderUpdate"], "--kind: 'OnOrderUpdate' is no kind"),
        (["tail", "--kind", "zzz"], "'zzz' is no kind; there are entry-signal, exit-signal"),
        (["tail", "--account", "a*"], "--account: 'a*' is not an account's name: a letter or digit, then"),
        (["tail", "--output", "xml"], "--output: 'xml' is neither line nor json"),
        (["tail", "--prefix", "a.b"], "--prefix: 'a.b'"),
        (["tail", "--servers", '["a'], "--servers"),
        (["tail", "--broker", "rabbit"], "--broker: 'rabbit'"),
        (["simulate", "--user", "alice"], "--user: 'alice' is not NAME=KEY"),
        (["simulate", "--port", "70000"], "--port"),
        (["simulate", "--rate", "-1"], "--rate"),
        (["simulate", "--form", "snake"], "'snake' is not one of 'camel-int', 'pascal-string'"),
        (["demo", "--events", "0"], "--events"),
        (["frobnicate"], "No such command 'frobnicate'"),
    ],
)
def test_a_wrong_argument_is_a_usage_error_that_says_what_would_be_right(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 2
    assert message in result.output


def test_fresh_schemas_pass_and_a_stale_or_a_left_over_file_fails(tmp_path: Path) -> None:
    runner = CliRunner()
    written = runner.invoke(app, ["schemas", "--directory", str(tmp_path)])
    count = len(schema_files()) + 1  # and the OpenAPI document
    assert f"{count} of {count} schemas written" in written.output
    assert runner.invoke(app, ["schemas", "--directory", str(tmp_path), "--check"]).exit_code == 0

    stale, orphan = min(tmp_path.rglob("*.schema.json")), tmp_path / "events" / "old.v1.schema.json"
    stale.write_text(stale.read_text("utf-8") + " ", "utf-8")
    orphan.write_text('{"$id": "urn:mesolive:old:v1"}', "utf-8")
    checked = runner.invoke(app, ["schemas", "--directory", str(tmp_path), "--check"])
    assert checked.exit_code == 1
    assert f"stale: {stale}" in checked.output
    assert f"of no model: {orphan}" in checked.output
    assert "Run `gateway schemas`, delete what is of no model" in checked.output

    again = runner.invoke(app, ["schemas", "--directory", str(tmp_path)]).output
    assert "1 of" in again
    assert f"of no model, delete it where nobody needs it: {orphan}" in again
    orphan.unlink()
    assert runner.invoke(app, ["schemas", "--directory", str(tmp_path), "--check"]).exit_code == 0


def test_schemas_deletes_nothing_and_writes_over_no_file_of_others(run_command: RunCommand, tmp_path: Path) -> None:
    others = {
        "mine/customer.schema.json": "{}",
        "vendor/a/b.schema.json": '{"$id": "urn:mesolive:b:v1"}',
        "own.v1.schema.json": '{"$id": "https://example.com/own"}',
        "events/order.schema.json": "no JSON",
    }
    for path, text in others.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    code, output = run_command("schemas", "--directory", str(tmp_path))
    assert (code, output.count("\n")) == (0, 1)
    assert {path: (tmp_path / path).read_text() for path in others} == others
    assert run_command("schemas", "--directory", str(tmp_path), "--check")[0] == 0

    (tmp_path / "openapi.json").write_text('{"info": {"title": "Mine"}}')
    for _ in range(2):
        code, output = run_command("schemas", "--directory", str(tmp_path))
        assert code == 2
        assert f"{tmp_path}/openapi.json is there, and is none that this command wrote" in output
    assert (tmp_path / "openapi.json").read_text() == '{"info": {"title": "Mine"}}'


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path.name)])
def test_schemas_writes_into_nothing_but_files(
    make: Callable[[Path], None], run_command: RunCommand, tmp_path: Path
) -> None:
    make(tmp_path / "openapi.json")
    code, output = run_command("schemas", "--directory", str(tmp_path))
    assert (code, output.count("\n")) == (2, 1)
    code, output = run_command("schemas", "--directory", "/dev/null")
    assert (code, output.count("\n")) == (2, 1)


def test_strategies_that_are_no_numbers_are_refused_in_words() -> None:
    result = CliRunner().invoke(app, ["verify", "--strategies", "1,x"])
    assert result.exit_code == 2
    assert "'1,x' is no list of numbers; 1,2 would be right" in result.output


def test_what_nobody_expected_is_a_traceback_that_a_terminal_can_show() -> None:
    text = "".join(TEXTS.values())
    program = (
        "import sys, gateway.cli.main as m, gateway.cli.token as t\n"
        f"def fails(): raise KeyError({text!r}) from ValueError({text!r})\n"
        "t.new_token, sys.argv = fails, ['gateway', 'token', '--name', 'x']\n"
        "m.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert judge(done.stderr, is_terminal=False) == []
    assert "Traceback (most recent call last):" in done.stderr
    assert "  | ValueError: \\x1b]0;n4sty\\x07" in done.stderr


def test_the_table_of_the_demo_reads_no_markup_and_shows_the_unprintable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "4000")
    statuses = [
        SimpleNamespace(account="n4sty", state=AccountState.LIVE, published=1, lag=0, last_error=text)
        for text in TEXTS.values()
    ]
    terminal.show(demo._table(statuses, 1.0))  # type: ignore[arg-type]
    output = capsys.readouterr().out
    assert judge(output, is_terminal=False) == []
    assert "[link=http://evil.example]n4sty[/link]" in output
    assert "n4sty:smile:" in output


def test_a_table_into_a_pipe_has_a_line_for_each_row_with_its_cells_whole(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a" * 32, 7, "w" * 200), ("b", 1234567, "")]
    terminal.show(terminal.table("2 replays", ("id", "published", "detail"), rows, right=("published",)))
    assert capsys.readouterr().out.splitlines() == [
        f"{'id':32}  published  detail",
        f"{'a' * 32}          7  {'w' * 200}",
        f"{'b':32}    1234567",
    ]


def test_a_table_on_a_narrow_terminal_loses_nothing_and_breaks_no_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    cells = ["a" * 32, *(f"{number}" * 20 for number in range(1, 9))]
    terminal.show(terminal.table("1 replay", [f"c{number}" for number in range(9)], [cells]))
    output = capsys.readouterr().out
    assert "a" * 32 in output
    assert all(output.count(str(number)) >= 20 for number in range(1, 9))
    assert "…" not in output
