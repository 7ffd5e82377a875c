"""`gateway schemas`: the published contract as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli import terminal
from gateway.cli.options import command_app
from gateway.control.app import openapi_text
from gateway.events.schemas import schema_files

app = command_app()


@app.command()
def schemas(
    directory: Annotated[Path, typer.Option(help="Where to write them.")] = Path("schemas"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 when a file is stale.")] = False,
) -> None:
    """Write the JSON Schema of every message value and the API's OpenAPI document, made from the models."""
    files = {**schema_files(), "openapi.json": openapi_text()}
    stale = [path for path, text in files.items() if not _holds(directory / path, text)]
    known = {directory / path for path in files}
    orphans = [path for path in directory.rglob("*.schema.json") if path not in known]
    if check:
        for path in stale:
            terminal.complain(f"stale: {directory / path}")
        for orphan in orphans:
            terminal.complain(f"of no model: {orphan}")
        if stale or orphans:
            terminal.complain("Run `gateway schemas` and commit what it writes.")
            raise typer.Exit(1)
        terminal.say(f"{len(files)} schemas are fresh")
        return
    for path in stale:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(files[path], "utf-8")
    for orphan in orphans:
        orphan.unlink()
    terminal.say(f"{len(stale)} of {len(files)} schemas written, {len(orphans)} removed in {directory}")


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text("utf-8") == text
