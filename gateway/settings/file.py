"""Settings as they are written: YAML in a file, JSON in the environment; bounded, and each name once.

YAML's anchors are refused: a few lines of them stand for gigabytes. Nothing here depends on which settings there are.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import yaml

from gateway.errors import ConfigurationError
from gateway.small_files import UnreadableFile, read_small_text

FILE_BYTES: Final = 256 * 1024
"""The most that the file may have; one with every setting and its description has 20 KB."""
VALUE_CHARACTERS: Final = 64 * 1024
"""The most that one variable may have."""
DEEPEST: Final = 16
"""The most levels of sections and lists within one another; the settings have four."""
_SHOWN: Final = 200
_SETTING: Final = "--config"
_MEND: Final = "Mend the file."
_QUOTED: Final = re.compile(r"'(?!<[a-z ]+>)[^']{2,}'")
_BOOLEAN: Final = "tag:yaml.org,2002:bool"
_MERGE: Final = "tag:yaml.org,2002:merge"
_INTEGER: Final = "tag:yaml.org,2002:int"
_FLOAT: Final = "tag:yaml.org,2002:float"
_NUMBERS: Final = (_INTEGER, _FLOAT)
_NUMBER_CHARACTERS: Final = 100
"""The most that a number may have: one of 250,000 digits to the base of 60 takes 3 s, and no one can print it."""
_JSON_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def cut(text: str) -> str:
    """Return a text that is shown to people, at most 200 characters of it."""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def read_yaml(path: Path) -> object:
    """Return what a YAML file holds, None where it is empty; raises ConfigurationError."""
    try:
        text = read_small_text(path, FILE_BYTES)
    except UnreadableFile as error:
        raise ConfigurationError(_SETTING, f"{path} {error.problem}", "Name a readable YAML file.") from error
    try:
        _check_structure(path, text)
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except _RepeatedError as error:
        problem = f"{path}: {cut(error.name)!r} stands twice, in line {error.first} and in line {error.second}"
        raise ConfigurationError(_SETTING, problem, "Write each name once.") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(_SETTING, f"{path} is not YAML: {cut(_in_a_line(error))}", _MEND) from error
    except (ValueError, OverflowError) as error:  # a date such as 2026-99-99, a number of thousands of digits
        problem = f"{path} holds a value that is none: {cut(str(error))}"
        raise ConfigurationError(_SETTING, problem, "Write it in quotes, if it is a text.") from error


def read_json(text: str) -> Any:  # noqa: ANN401 - JSON
    """Return a JSON value; raises ValueError where it is invalid, too deep, too long, or names a member twice."""
    if len(text) > VALUE_CHARACTERS:
        raise ValueError(f"is longer than {VALUE_CHARACTERS} characters")
    depth = 0
    for character in _JSON_STRING.sub("", text):
        depth += (character in "[{") - (character in "]}")
        if depth > DEEPEST:
            raise ValueError(f"is nested deeper than {DEEPEST} levels")
    return json.loads(text, object_pairs_hook=_once)


def check_variable(variable: str, text: str) -> None:
    """Raise ConfigurationError where a variable's value is too long, too deep, or names a member twice.

    What is no JSON at all may be right: not every setting takes it.
    """
    if len(text) > VALUE_CHARACTERS:
        raise ConfigurationError(variable, f"is longer than {VALUE_CHARACTERS} characters", "Write it into the file.")
    if text.lstrip().startswith(("[", "{")):
        try:
            read_json(text)
        except json.JSONDecodeError:
            pass
        except ValueError as error:
            raise ConfigurationError(variable, str(error), "Write the value as the settings have it.") from error


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        names = [name for name, _ in members]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"names {cut(twice)!r} twice")
    return found


def _check_structure(path: Path, text: str) -> None:
    """Refuse anchors and depth before anything is built: PyYAML builds by recursion, and an alias costs nothing."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        place = f"{path}, line {event.start_mark.line + 1}" if event.start_mark is not None else str(path)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:  # it is set, or referred to
            problem = f"{place}: has an anchor or an alias"  # its name may be a password that begins with *
            raise ConfigurationError(_SETTING, problem, "Write out what is meant, and quote a text with & or *.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ConfigurationError(_SETTING, f"{place}: is nested deeper than {DEEPEST} levels", _MEND)


class _RepeatedError(Exception):
    """A name stands twice in one section."""

    def __init__(self, name: str, first: int, second: int) -> None:
        super().__init__(name)
        self.name = name
        self.first = first
        self.second = second


class _Loader(yaml.SafeLoader):
    """Reads `true` and `false` alone as booleans, as YAML 1.2 does: `Off` and `On` are names of an enum.

    Numbers are those of YAML 1.2, too: YAML 1.1 reads `1:30` as 90, and `0100` as 64. It has no merge keys, as YAML 1.2
    has none: what they bring in could stand in the section already.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002, ANN401 - PyYAML's
        """Build a value; raises ValueError for a number of too many digits, before anything is computed."""
        if node.tag in _NUMBERS and len(node.value) > _NUMBER_CHARACTERS:
            raise ValueError(f"a number of {len(node.value)} characters")
        return super().construct_object(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave merge keys where they are: nothing can build one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's
        """Build a mapping; raises _RepeatedError."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise _RepeatedError(key.value, lines[key.value], line)
                lines[key.value] = line
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in {_BOOLEAN, _MERGE, *_NUMBERS}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _form, _first in (
    (_BOOLEAN, "true|True|TRUE|false|False|FALSE", "tTfF"),
    (_INTEGER, "[-+]?(0|[1-9][0-9]*)|0x[0-9A-Fa-f]+", "-+0123456789"),
    (_FLOAT, r"[-+]?((0|[1-9][0-9]*)\.[0-9]*([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))|\.(nan|NaN|NAN)", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"({_form})\Z"), list(_first))


def _in_a_line(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        problem = _QUOTED.sub("…", error.problem or "")  # a tag or an alias may be a password that begins with ! or *
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
    return "it holds characters that YAML does not allow"
