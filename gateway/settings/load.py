"""Reads the settings from the file and the environment, and reports what is wrong with them."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsError

from gateway.errors import ConfigurationError
from gateway.redaction import may_hold_secret, shown_value
from gateway.settings.file import check_variable, cut, read_yaml
from gateway.settings.model import ENVIRONMENT_PREFIX, BrokerAlone, Settings, SourcedSettings, fields
from gateway.settings.option_variables import OPTION_VARIABLES
from gateway.settings.sections import BrokerSettings

_KUBERNETES: Final = re.compile(r"_(PORT|SERVICE_HOST|SERVICE_PORT)(_|$)")
"""What Kubernetes puts into the environment of every pod for a service named `gateway…`."""
_Loaded = TypeVar("_Loaded", bound=SourcedSettings)

_REQUIRED: Final = {
    "hub.url": "Set it to where the hub is, such as https://api.example.com.",
    "accounts.directory": "Set it to a directory that holds one file an account, with its API key.",
}


def load_settings(config: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from the file, if there is one, and the environment.

    Raises ConfigurationError, whose text names the setting, the problem and the remedy, never a secret.
    """
    return _load(Settings, config, environment)


def load_broker_settings(config: Path | None, environment: Mapping[str, str] = os.environ) -> BrokerSettings:
    """Read the section `broker` alone: the others may be absent or wrong. Raises as `load_settings`."""
    return _load(BrokerAlone, config, environment).broker


def _load(model: type[_Loaded], config: Path | None, environment: Mapping[str, str]) -> _Loaded:
    content = _read_file(config) if config else {}
    _check_environment(environment)
    try:
        return model(**content)
    except ValidationError as error:
        raise _explain(error) from error
    except SettingsError as error:
        section = re.search(r'field "(\w+)"', str(error))
        variable = ENVIRONMENT_PREFIX + (section[1].upper() if section else "…")
        remedy = f"A section takes a JSON object; a single setting is written as {variable}__<NAME>."
        raise ConfigurationError(variable, "its value is no JSON", remedy) from error


def _read_file(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigurationError("--config", f"{path} holds no settings by name", "Write it as `hub: {url: …}`.")
    return _without_empty_sections(content, Settings)


def _without_empty_sections(content: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Leave out sections whose settings are all commented out: YAML reads them as null."""
    kept = {}
    for name, value in content.items():
        field = model.model_fields.get(name)
        section = field.annotation if field else None
        if isinstance(section, type) and issubclass(section, BaseModel):
            if value is None:
                continue
            if isinstance(value, dict):
                kept[name] = _without_empty_sections(value, section)
                continue
        kept[name] = value
    return kept


def _check_environment(environment: Mapping[str, str]) -> None:
    """Refuse names that nothing reads: pydantic-settings passes over them in silence."""
    known = {name for setting, _ in fields() for name in _and_its_sections(setting)}
    for variable in environment:
        upper = variable.upper()
        if not upper.startswith(ENVIRONMENT_PREFIX) or upper in OPTION_VARIABLES:
            continue
        if "__" not in upper and _KUBERNETES.search(upper):
            continue
        setting = upper.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        if setting not in known and not setting.startswith("hub.headers."):
            raise ConfigurationError(
                cut(variable), "no setting has this name in the environment", _nearest(setting, variable)
            )
        check_variable(variable, environment[variable])


def _and_its_sections(setting: str) -> Iterator[str]:
    parts = setting.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _nearest(setting: str, variable: str | None = None) -> str:
    candidates = [name for name, _ in fields()]
    sections = [
        part for name in candidates for part in _and_its_sections(name) if part.count(".") == setting.count(".")
    ]
    folded = {name.replace(".", "_"): name for name in (*candidates, *sections)}
    close = difflib.get_close_matches(setting.replace(".", "_"), folded, n=1, cutoff=0.5)
    if not close:
        return f"There are: {', '.join(candidates)}."
    nearest = folded[close[0]]
    if variable is not None:
        nearest = ENVIRONMENT_PREFIX + nearest.upper().replace(".", "__")
    return f"Did you mean {nearest}?"


def _is_secretive(setting: str, field: FieldInfo) -> bool:
    """Return whether a setting holds a secret, or the name of something that a secret may be mistaken for."""
    return setting == "broker.sasl.username" or any(kind in str(field.annotation) for kind in ("SecretStr", "Path"))


def _explain(error: ValidationError) -> ConfigurationError:
    problems = error.errors(include_url=False, include_context=False)
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    setting = cut(".".join(str(part) for part in first["loc"]))
    field = next((field for field in fields() if setting == field[0] or setting.startswith(f"{field[0]}.")), None)
    if field is not None and field[1].annotation != dict[str, SecretStr]:
        setting = field[0]  # behind it pydantic names the member of a union, or a place in a list
    if first["type"] == "extra_forbidden":
        return ConfigurationError(setting, "there is no such setting", _nearest(setting))
    problem = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not setting:
        name = problem.split(" ")[0]
        return ConfigurationError(name, "is not set", _REQUIRED.get(name, ""))
    if field is None:
        return ConfigurationError(setting, "is a section, not a value", f"Write it as `{setting}: {{<name>: …}}`.")
    value = first["input"]
    problem = problem[:1].lower() + problem[1:]
    if not isinstance(value, dict) and not _is_secretive(*field) and not may_hold_secret(value):
        reads_on = problem.startswith(("is ", "must ", "should "))
        problem = f"{shown_value(value)} {problem}" if reads_on else f"{shown_value(value)}: {problem}"
    meaning = " ".join((field[1].description or "").split())  # some take two lines
    return ConfigurationError(setting, problem, f"It says: {meaning}")
