"""What the operators' page tells them to look for, to set and to type is there."""

from __future__ import annotations

import re
from typing import Final

from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.settings.model import fields
from tests.support.charts import CHART, ROOT

PATH: Final = ROOT / "docs" / "operate" / "operations.md"
PAGE: Final = PATH.read_text("utf-8")
VALUES: Final = set(re.findall(r"^\| `([\w.]+)` \|", (CHART / "README.md").read_text("utf-8"), re.MULTILINE))


def test_it_cites_what_the_gateway_logs() -> None:
    code = "".join(file.read_text("utf-8") for file in (ROOT / "gateway").rglob("*.py"))
    cited = {re.sub(r"\s+", " ", text) for text in re.findall(r'"([a-z][^"]+)"', PAGE)}
    assert len(cited) > 8
    assert [text for text in sorted(cited) if text not in code] == []


def test_it_names_settings_and_values_that_there_are() -> None:
    settings = {name for name, _ in fields()} | VALUES
    sections = {name.partition(".")[0] for name in settings if "." in name}
    known_names = set(re.findall(r"`([a-z]+(?:\.[a-z_]+)+)(?:: [^`]*)?`", PAGE)) | set(
        re.findall(r"--set '?([\w.]+)=", PAGE)
    )
    ours = {name for name in known_names if name.partition(".")[0] in sections}
    known = settings | {name.rpartition(".")[0] for name in settings}
    assert len(ours) > 10
    assert sorted(ours - known) == []


def test_it_names_commands_and_options_that_there_are() -> None:
    lines = re.findall(r"^ {4}gateway (.+)$|`gateway ([^`]+)`", PAGE, re.MULTILINE)
    assert lines
    for text in (first or second for first, second in lines):
        command = text.split(" --")[0].split()
        name = command[:2] if command[0] == "replay" else command[:1]
        output = CliRunner().invoke(app, [*name, "--help"]).output
        assert [
            option for option in re.findall(r"--[a-z-]+", text) if option.replace("--no-", "--") not in output
        ] == []


def test_its_links_lead_somewhere() -> None:
    for path, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", PAGE):
        file = (PATH.parent / path).resolve() if path else PATH
        assert file.is_file(), path
        heads = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
        assert not anchor or anchor in slugs, (path, anchor)
