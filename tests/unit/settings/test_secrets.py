"""No error about a setting shows what may be a secret, wherever somebody writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from gateway.errors import ConfigurationError
from gateway.settings.load import load_settings
from gateway.settings.model import Settings

MARKER = "s3cret-marker"
GOOD: dict[str, Any] = {"hub": {"url": "https://hub"}, "accounts": {"directory": "/keys"}}
BEARING = ("SecretStr", "Path")
"""Types of fields that hold a secret, or a file's name in the place of which one may be written."""
URLS = {"hub.url", "tracing.endpoint", "broker.servers"}


def every_field(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted name of each setting, and its type."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from every_field(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(field.annotation)


SECRETIVE = [name for name, kind in every_field() if any(one in kind for one in BEARING)] + ["broker.sasl.username"]
WRONG: list[Any] = [
    [MARKER],
    {MARKER: MARKER},
    {"x": [MARKER]},
    {"x": {"y": MARKER}},
    f"htps://user:{MARKER}@host",
    f"http://host/{MARKER}",
    f"http://user:{MARKER}@host:1/?{MARKER}",
    [f"user:{MARKER}@host", 5],
    [[f"user:{MARKER}@host"]],
    5,
    True,
    None,
]


def short(value: object) -> str:
    return repr(value)[:30]


def settings_with(name: str, value: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever somebody writes
    whole: dict[str, Any] = json.loads(json.dumps(GOOD))
    place = whole
    *sections, last = name.split(".")
    for section in sections:
        place = place.setdefault(section, {})
    place[last] = value
    return whole


def problem_of(name: str, value: Any, folder: Path) -> str:  # noqa: ANN401 - likewise
    """Load settings with this value; give all that anybody could see of it."""
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(settings_with(name, value)))
    try:
        return repr(load_settings(file, {}))
    except ConfigurationError as error:
        chain: list[str] = []
        cause: BaseException | None = error
        while cause is not None:
            chain.append(str(cause))
            cause = cause.__cause__ or cause.__context__
        return "\n".join(chain)


@pytest.mark.parametrize("name", [one for one in SECRETIVE if one != "hub.headers"])
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_setting_that_may_bear_a_secret_never_shows_it_in_an_error(name: str, value: object, tmp_path: Path) -> None:
    problem = problem_of(name, value, tmp_path)
    if "hub=HubSettings" not in problem:  # else it was taken: a file may have any name
        assert MARKER not in problem


@pytest.mark.parametrize(
    "value",
    [one for one in WRONG if one != {MARKER: MARKER}]
    + [{"x-key": MARKER}, {"x-key": [MARKER]}, {"x-key": {"y": MARKER}}],
    ids=repr,
)
def test_headers_are_never_shown_also_where_they_are_right(value: object, tmp_path: Path) -> None:
    problem = problem_of("hub.headers", value, tmp_path)
    assert MARKER not in problem


@pytest.mark.parametrize("name", [name for name, _ in every_field()])
@pytest.mark.parametrize(
    "value", [one for one in WRONG if "user" in repr(one)] + [f"user:{MARKER * 100}@{'x' * 300}"], ids=short
)
def test_what_looks_like_a_user_and_a_password_is_shown_of_no_setting(name: str, value: object, tmp_path: Path) -> None:
    problem = problem_of(name, value, tmp_path)
    if "hub=HubSettings" not in problem:
        assert MARKER not in problem


def test_a_proxy_that_is_right_is_not_shown_either(tmp_path: Path) -> None:
    assert MARKER not in problem_of("hub.proxy", f"http://user:{MARKER}@proxy:3128", tmp_path)


@pytest.mark.parametrize("name", sorted(URLS | {"hub.proxy"}))
def test_there_is_a_setting_of_each_name_that_this_test_knows(name: str) -> None:
    assert name in dict(every_field())


@pytest.mark.parametrize("written", [f"*{MARKER}", f"!{MARKER} x", f"!!{MARKER} x", f"%{MARKER}", f"'{MARKER}"])
def test_a_password_that_yaml_cannot_read_is_not_shown(written: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"hub:\n  url: https://hub\n  proxy: {written}\n")
    with pytest.raises(ConfigurationError, match=r"is not YAML|has an anchor or an alias") as refused:
        load_settings(file, {})
    assert MARKER not in str(refused.value)


def test_a_value_is_cut_however_large_and_deep_it_is(tmp_path: Path) -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join([f'*{before}'] * 8)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
    )
    file = tmp_path / "gateway.yaml"
    for value in ("x" * 100_000, [["y" * 300] * 50] * 50, 10**300):
        file.write_text(yaml.safe_dump(settings_with("log.level", value)))
        with pytest.raises(ConfigurationError) as refused:
            load_settings(file, {})
        assert len(refused.value.problem) < 500
    file.write_text(bomb + "hub: {url: https://hub}\naccounts: {directory: /keys}\nlog: {level: *h}\n")
    with pytest.raises(ConfigurationError) as refused:
        load_settings(file, {})
    assert len(str(refused.value)) < 3000


def test_the_dump_for_a_log_hides_secrets(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    whole = settings_with("hub.headers", {"x-key": MARKER})
    whole["hub"]["proxy"] = f"http://user:{MARKER}@proxy:3128"
    file.write_text(yaml.safe_dump(whole))
    settings = load_settings(file, {})
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert MARKER not in shown


@pytest.mark.parametrize(
    "headers",
    [
        {"X Y": "s3cret"},
        {"": "s3cret"},
        {"X": "s3cret\nAdmin: yes"},
        {"X": "s3cret\x7f"},
        {"Ключ": "s3cret"},
        {"Content-Length": "3"},
        {"upgrade": "h2c"},
        {"Sec-WebSocket-Key": "s3cret"},
        {"X-Key": "s3cret", "x-key": "other"},
    ],
)
def test_a_header_that_no_request_can_have_is_refused_and_not_shown(headers: dict[str, str], tmp_path: Path) -> None:
    """Else the hub refuses each connection, and the hub is blamed for it."""
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps({"hub": {"url": "http://h", "headers": headers}, "accounts": {"directory": "/keys"}}))
    with pytest.raises(ConfigurationError, match=r"^hub\.headers: header [12] ") as refused:
        load_settings(file, {})
    assert "s3cret" not in str(refused.value)


def test_headers_that_requests_have_pass(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    headers = {"X-Key": "a b\u00e9", "Host": "hub.example", "x_other": ""}
    file.write_text(json.dumps({"hub": {"url": "http://h", "headers": headers}, "accounts": {"directory": "/keys"}}))
    assert load_settings(file, {}).hub.headers.keys() == headers.keys()
