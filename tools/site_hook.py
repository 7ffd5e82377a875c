"""Lets the site hold what its pages link to outside docs/: other pages of the repository, schemas, examples, rules.

On the repository's own pages such links lead where they say. In the site a page or a file comes along under its own
path, and a link to a folder becomes the name alone.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, Files  # only `make docs` has it

_ROOT: Final = Path(__file__).parents[1]
_LINK: Final = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_PAGES: Final = (
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "helm/mesolive-gateway/README.md",
)
"""Pages outside docs/ that are a part of the site; README.md is for the repository, and index.md says it here."""


def on_files(files: Files, config: Any) -> Files:  # noqa: ANN401 - MkDocs'
    """Add the pages outside docs/, and the files that any page links to."""
    for name in _PAGES:
        files.append(File.generated(config, name, content=(_ROOT / name).read_text("utf-8")))
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()}
    for page, text in texts.items():
        for _, link in _LINK.findall(text):
            path = _target(page, link)
            if path is not None and path.is_file() and path.suffix != ".md":
                name = path.relative_to(_ROOT).as_posix()
                if files.get_file_from_path(name) is None:
                    files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:  # noqa: ANN401, ARG001 - MkDocs'
    """Make links that leave docs/ lead to where the site has what they name."""
    here = page.file.src_uri

    def relinked(found: re.Match[str]) -> str:
        message, link = found.groups()
        path = _target(here, link)
        if path is None:
            return found[0]
        name = path.relative_to(_ROOT).as_posix()
        if name == "README.md":
            name = "index.md"
        in_site = name.removeprefix("docs/")
        if files.get_file_from_path(in_site) is None:
            return found[0] if not path.is_dir() else message
        _, mark, anchor = link.partition("#")
        return f"[{message}]({posixpath.relpath(in_site, posixpath.dirname(here) or '.')}{mark}{anchor})"

    return _LINK.sub(relinked, markdown)


def _target(page: str, link: str) -> Path | None:
    """Return what a link of a page names if that is outside docs/, or the page is."""
    path = link.partition("#")[0]
    if "://" in link or link.startswith("mailto:") or not path:
        return None
    folder = (_ROOT if page in _PAGES else _ROOT / "docs") / posixpath.dirname(page)
    found = Path(os.path.normpath(folder / path))
    is_ours = found.exists() and (page in _PAGES or not found.is_relative_to(_ROOT / "docs"))
    return found if is_ours else None
