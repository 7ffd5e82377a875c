"""The site that `make docs` builds: its navigation names every page, and its hook takes along what pages link to."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.support.charts import ROOT

CONFIG: Final = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))


def pages(nav: object) -> list[str]:
    """Return the pages of a part of the navigation."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else []
    return [page for part in parts for page in pages(part)]


def test_every_page_is_in_the_navigation_and_everything_in_it_is_a_page() -> None:
    docs = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    named = set(pages(CONFIG["nav"]))
    assert docs - named == set()
    assert [page for page in named - docs if not (ROOT / page).is_file()] == []


def test_it_loads_no_fonts_from_elsewhere_and_fails_on_a_broken_link() -> None:
    assert CONFIG["theme"]["font"] is False
    assert set(CONFIG["validation"]["links"].values()) == {"warn"}
    assert "mkdocs build --strict" in (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "images").glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_loads_nothing_from_elsewhere(picture: Path) -> None:
    drawn = picture.read_text("utf-8")
    assert not re.search(r"url\(\s*[\"']?https?:|@import|@font-face|href=[\"']https?:|<script", drawn)


def test_every_picture_is_shown_and_says_what_it_shows() -> None:
    shown = set()
    for page in (ROOT / "docs").rglob("*.md"):
        for text, path in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text("utf-8")):
            assert len(text) > 20, path
            shown.add(posixpath.basename(path))
    assert shown == {picture.name for picture in (ROOT / "docs" / "images").glob("*.svg")}
