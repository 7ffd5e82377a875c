"""`gateway schemas`: the published contract as files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.bootstrap import terminal
from gateway.cli.options import command_app
from gateway.control.app import openapi_text
from gateway.errors import ConfigurationError
from gateway.events.schemas import schema_files
from gateway.small_files import UnreadableFile, read_small

app = command_app()
_SCHEMA: Final = ".schema.json"
_FOLDERS: Final = ("", "events/")
"""Where schemas are written, below the directory."""
_LARGEST: Final = 4 * 1024 * 1024
_RUN: Final = "Run `gateway schemas` and commit what it writes."


@app.command()
def schemas(
    directory: Annotated[Path, typer.Option(help="Where to write them.")] = Path("schemas"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 when a file is stale.")] = False,
) -> None:
    """Write the JSON Schema of every message value and the API's OpenAPI document, made from the models.

    It deletes nothing, and writes over no file that it did not write; a schema that is left over from an earlier
    release is named.
    """
    files = {**schema_files(), "openapi.json": openapi_text()}
    stale = [path for path, text in files.items() if not _holds(directory / path, text)]
    orphans = [path for path in _found(directory) if path not in files]
    if check:
        for path in stale:
            terminal.print_error(f"stale: {directory / path}")
        for orphan in orphans:
            terminal.print_error(f"of no model: {directory / orphan}")
        if stale or orphans:
            remedy = "Run `gateway schemas`, delete what is of no model, and commit." if orphans else _RUN
            terminal.print_error(remedy)
            raise typer.Exit(1)
        terminal.print_line(f"{len(files)} schemas are fresh")
        return
    _write(directory, {path: files[path] for path in stale})
    for orphan in orphans:
        terminal.print_line(f"of no model, delete it where nobody needs it: {directory / orphan}")
    terminal.print_line(f"{len(stale)} of {len(files)} schemas written in {directory}")


def _write(directory: Path, files: Mapping[str, str]) -> None:
    for path in files:
        if os.path.lexists(directory / path) and not _is_ours(directory, path):
            problem = f"{directory / path} is there, and is none that this command wrote"
            raise ConfigurationError("--directory", problem, "Name another directory, or move it away.")
    try:
        for path, text in files.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_text(text, "utf-8")
    except (OSError, ValueError) as error:
        problem = f"{directory} cannot be written to ({getattr(error, 'strerror', None) or error})"
        raise ConfigurationError("--directory", problem, "Name a directory that you may write to.") from error


def _found(directory: Path) -> list[str]:
    """Return the schemas that this command, of whatever release, wrote there: it recognises each by its `$id`."""
    paths = [
        path.relative_to(directory).as_posix() for folder in _FOLDERS for path in directory.glob(f"{folder}*.json")
    ]
    return sorted(path for path in paths if path.endswith(_SCHEMA) and _is_ours(directory, path))


def _is_ours(directory: Path, path: str) -> bool:
    try:
        found = json.loads(read_small(directory / path, _LARGEST))
        if path == "openapi.json":
            return bool(found["info"]["title"] == json.loads(openapi_text())["info"]["title"])
        name, _, version = path.removesuffix(_SCHEMA).rpartition("/")[2].rpartition(".")
        return bool(found["$id"] == f"urn:mesolive:{name}:{version}")
    except (UnreadableFile, ValueError, KeyError, TypeError, RecursionError):
        return False


def _holds(path: Path, text: str) -> bool:
    try:
        return read_small(path, _LARGEST) == text.encode()
    except UnreadableFile:
        return False
