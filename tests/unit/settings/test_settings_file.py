"""What may stand in the settings' file and in a variable: bounded, without anchors, and each name once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from annotated_types import Le

from gateway.errors import ConfigurationError
from gateway.settings.file import DEEPEST, FILE_BYTES, VALUE_CHARACTERS, read_json, read_yaml
from gateway.settings.load import load_settings
from gateway.settings.model import fields

GOOD: Final = "hub: {url: 'http://h'}\naccounts: {directory: /keys}\n"
BOMB: Final = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def refusal(folder: Path, text: str | bytes) -> ConfigurationError:
    """Load settings that must be refused; return the refusal, which is short and one line."""
    file = folder / "gateway.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigurationError) as refused:
        load_settings(file, {})
    assert len(str(refused.value)) < 2000  # where nothing is near, all settings are named
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"hub: {{url: {BOMB!r}}}", "is no http or https URL"),
        (BOMB, "line 1: has an anchor or an alias"),
        ("hub: &a {url: 'http://h'}\n", "line 1: has an anchor"),
        ("accounts: {directory: /keys}\nhub:\n  url: &a x\n", "line 3: has an anchor"),
        ("hub: *a\n", "line 1: has an anchor or an alias"),
        ("hub: {url: *secret}\n", "line 1: has an anchor or an alias"),
        ("a: &a [*a]\n", "has an anchor"),
        ("hub: " + "[" * 5000 + "]" * 5000, f"is nested deeper than {DEEPEST} levels"),
        ("hub: " + "[" * 200_000, f"is nested deeper than {DEEPEST} levels"),
        ("hub: " + "{a: " * 5000 + "}" * 5000, "is nested deeper than"),
        ("\n".join("  " * depth + "a:" for depth in range(300)), "line 17: is nested deeper than"),
        ("- " * 5000 + "x", "is nested deeper than"),
        ("? " * 5000 + "x", "is nested deeper than"),
        ("x" * (FILE_BYTES + 1), f"is larger than {FILE_BYTES} bytes"),
        ("hub: {url: x}\nshards: 4\nhub: {url: y}\n", "'hub' stands twice, in line 1 and in line 3"),
        ("hub:\n  url: x\n  ca_file: y\n  'url': z\n", "'url' stands twice, in line 2 and in line 4"),
        ("hub: {headers: {a: 1, a: 2}}\n", "'a' stands twice, in line 1 and in line 1"),
        ("broker:\n  tls:\n    ca_file: a\n    ca_file: b\n", "'ca_file' stands twice, in line 3 and in line 4"),
        ("x: [{a: 1, b: {c: 1, c: 2}}]\n", "'c' stands twice"),
        (f"{'k' * 900}: 1\n{'k' * 900}: 2\n", "stands twice"),
        ("hub: 2026-99-99\n", "holds a value that is none"),
        ("shards: " + "9" * 5000, "holds a value that is none"),
        ("hub: !!python/object:os.system x\n", "is not YAML"),
        ("hub: {? [a] : 1}\n", "is not YAML"),
        ("hub: \x1b]0;x\x07", "is not YAML"),
        ("hub: {url: " + "u" * 5000 + "}\n", "is no http or https URL"),
        ("k" * 900 + ": 1\n", "there is no such setting"),
        ("topics: {retention: [" + "1, " * 5000 + "1]}\n", "should be a valid number"),
        ("hub: {enums: {" + "E" * 900 + ": [a]}}\n", "is no enum of the hub"),
        ("hub: {redirect_hosts: ['" + "/" * 5000 + "']}\n", "is no host name"),
    ],
)
def test_what_no_settings_need_is_refused_in_a_short_line(text: str, message: str, tmp_path: Path) -> None:
    assert message in str(refusal(tmp_path, text))


@pytest.mark.parametrize("number", ["0x" + "F" * 200_000, "-" + "1" * 200_000, "9" * 5000])
def test_number_of_many_digits_is_refused_before_it_is_computed(number: str, tmp_path: Path) -> None:
    assert "holds a value that is none: a number of" in str(refusal(tmp_path, f"{GOOD}control: {{port: {number}}}\n"))


@pytest.mark.parametrize("text", ["true-north", "falsework", "TRUE1", "True_", "1e3", "0123", "12-30", "0b1", "1_000"])
def test_what_only_begins_like_another_type_is_a_text(text: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"{GOOD}broker: {{prefix: {text}}}\n")
    assert load_settings(file, {}).broker.prefix == text


@pytest.mark.parametrize("number", ["1:30", "0o17", "0b11", "1:30.5"])
def test_a_number_that_only_yaml_1_1_knows_is_not_guessed(number: str, tmp_path: Path) -> None:
    message = str(refusal(tmp_path, f"{GOOD}shards: {number}\n"))
    assert message.startswith(f"shards: '{number}' should be a valid integer")


@pytest.mark.parametrize(
    ("number", "value"), [("010", 10), ("+8", 8), ("0x10", 16), ("0", 0), ("1_0", 10), ("1e1", 10), ("2.5", 2.5)]
)
def test_a_number_is_what_it_is_in_yaml_1_2(number: str, value: float, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"{GOOD}session: {{reorder_window: {number}}}\n")
    assert load_settings(file, {}).session.reorder_window == value


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan", "1.0e30", "1e300", "infinity", "NaN", "3153600001"])
@pytest.mark.parametrize(
    "setting",
    [
        *("hub.connect_timeout", "hub.call_timeout", "hub.ping_interval", "hub.silence_timeout"),
        *("hub.connects_per_second", "session.history_grace", "session.reorder_window", "session.audit_interval"),
        *("broker.commit_timeout", "topics.retention", "topics.audit_retention", "replays.events_per_second"),
    ],
)
def test_no_number_is_without_an_end(setting: str, number: str, tmp_path: Path) -> None:
    """`topics.retention: .inf` was an OverflowError, and with 1e30 every commit would have been refused."""
    section, name = setting.split(".")
    content = {"hub": {"url": "'http://h'"}, "accounts": {"directory": "/keys"}}
    content.setdefault(section, {})[name] = number
    lines = [f"{one}: {{{', '.join(f'{key}: {value}' for key, value in of.items())}}}" for one, of in content.items()]
    assert str(refusal(tmp_path, "\n".join(lines))).startswith(f"{setting}: ")


def test_every_setting_that_is_a_number_of_seconds_has_a_bound() -> None:
    """What is a float has an upper bound: the ones to come, too."""
    floats = [(name, field) for name, field in fields() if "float" in str(field.annotation)]
    assert [name for name, field in floats if not any(isinstance(one, Le) for one in field.metadata)] == []
    assert len(floats) >= 13


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("accounts", "{directory: /keys, start: 9223372036854775808}", "should be 'earliest' or 'latest'"),
        ("topics", "{retention_bytes: 9223372036854775808}", "less than or equal to"),
        ("hub", "{url: 'http://h', page_limit: 2147483648}", "less than or equal to"),
    ],
)
def test_what_hub_or_broker_has_no_room_for_is_refused(setting: str, value: str, message: str, tmp_path: Path) -> None:
    good = [line for line in GOOD.splitlines() if not line.startswith(setting)]
    assert message in str(refusal(tmp_path, "\n".join([*good, f"{setting}: {value}"])))


@pytest.mark.parametrize(
    ("key", "message"), [("<<", "control.<<: there is no such setting"), ("!!merge a", "is not YAML")]
)
def test_section_takes_nothing_over_from_another(key: str, message: str, tmp_path: Path) -> None:
    """A merge key would let a name stand twice without a word: in the section, and in what it takes over."""
    assert message in str(refusal(tmp_path, f"{GOOD}control:\n  port: 8080\n  {key}: {{port: 8081}}\n"))


def test_lists_and_sections_that_stand_in_several_places_are_no_repetition(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(GOOD + "broker: {tls: {ca_file: a}, sasl: {username: a, password_file: a}}\n")
    assert load_settings(file, {}).broker.tls.ca_file == Path("a")


def test_signs_that_anchors_have_are_texts_in_quotes(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("a: '&x'\nb: \"*.example.com\"\nc: x&y*z\n")
    assert read_yaml(file) == {"a": "&x", "b": "*.example.com", "c": "x&y*z"}


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("GATEWAY_BROKER", "[" * 100_000, "longer than"),
        ("GATEWAY_BROKER", "[" * 10_000, "is nested deeper than"),
        ("GATEWAY_BROKER", '{"tls": ' * 1000, "is nested deeper than"),
        ("GATEWAY_BROKER__SERVERS", "[" * 10_000, "is nested deeper than"),
        ("GATEWAY_BROKER__SERVERS", "x" * (VALUE_CHARACTERS + 1), "is longer than"),
        ("GATEWAY_HUB", '{"url": "http://a", "url": "http://b"}', "names 'url' twice"),
        ("GATEWAY_HUB__ENUMS", '{"A": [], "b": {"c": 1, "c": 2}}', "names 'c' twice"),
        ("GATEWAY_HUB__URL", "u" * 5000, "is no http or https URL"),
        ("GATEWAY_TOPICS__RETENTION", "u" * 5000, "should be a valid number"),
    ],
)
def test_a_variable_gets_the_same_care(variable: str, value: str, message: str) -> None:
    environment = {"GATEWAY_HUB__URL": "http://h", "GATEWAY_ACCOUNTS__DIRECTORY": "/keys", variable: value}
    with pytest.MonkeyPatch.context() as patch:
        for name, text in environment.items():
            patch.setenv(name, text)
        with pytest.raises(ConfigurationError) as refused:
            load_settings(None, environment)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("value", [[1, {"a": "[[[[[[[[[[[[[[[[[["}], "x", {"a": ['\\"[{', 1.5]}])
def test_json_that_is_fine_is_read(value: object) -> None:
    assert read_json(json.dumps(value)) == value


def _lines_with(setting: str, value: str) -> str:
    content: dict[str, Any] = {"hub": {"url": "http://h"}, "accounts": {"directory": "/keys"}}
    *sections, name = setting.split(".")
    place = content
    for section in sections:
        place = place.setdefault(section, {})
    place[name] = json.loads(value)
    return json.dumps(content)  # which is YAML, too


OF_PATHS: Final = [name for name, field in fields() if "Path" in str(field.annotation)]
OF_NUMBERS: Final = [name for name, field in fields() if re.search(r"int|float", str(field.annotation))]


@pytest.mark.parametrize("empty", ["", " ", "\t"])
@pytest.mark.parametrize("setting", OF_PATHS)
def test_an_empty_path_is_not_the_working_directory(setting: str, empty: str, tmp_path: Path) -> None:
    """Else each file there, such as one with a password, is an account whose content goes to the hub as its key."""
    assert "accounts.directory" in OF_PATHS
    assert str(refusal(tmp_path, _lines_with(setting, json.dumps(empty)))).startswith(f"{setting}: is empty")


@pytest.mark.parametrize("truth", ["true", "false"])
@pytest.mark.parametrize("setting", OF_NUMBERS)
def test_true_is_not_the_number_one(setting: str, truth: str, tmp_path: Path) -> None:
    """Else `topics.retention: true` removes events after a second, and `shards: true` makes one shard."""
    assert {"topics.retention", "shards"} <= set(OF_NUMBERS)
    message = str(refusal(tmp_path, _lines_with(setting, truth)))
    assert message.startswith(f"{setting}: {truth.title()} should not be true or false. It says: ")


def test_an_empty_variable_is_no_directory_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_HUB__URL", "http://h")
    monkeypatch.setenv("GATEWAY_ACCOUNTS__DIRECTORY", "")
    with pytest.raises(ConfigurationError, match=r"^accounts\.directory: is empty"):
        load_settings(None)
