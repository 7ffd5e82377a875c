"""A source distribution holds what belongs to the gateway, and nothing that somebody keeps in the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PLANTED: Final = ("keys/main", "gateway.yaml", "secrets/token", "notes.sqlite", "gateway.yaml.bak", ".env")


def build(folder: Path) -> set[str]:
    """Build a copy of the checkout with planted secrets in it; return the names in the archive."""
    tree = folder / "tree"
    left_out = shutil.ignore_patterns(
        ".git", ".venv", "node_modules", "__pycache__", ".*_cache", ".hypothesis", "*.log"
    )
    shutil.copytree(ROOT, tree, ignore=left_out)
    for name in PLANTED:
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("s3cret")
    out = folder / "out"
    command = (sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(out))
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = out.iterdir()
    with tarfile.open(archive) as file:
        return {member.name.partition("/")[2] for member in file.getmembers() if member.isfile()}


def test_a_source_distribution_holds_no_secret_of_the_checkout(tmp_path: Path) -> None:
    names = build(tmp_path)
    assert not names & set(PLANTED)
    assert {"gateway/cli/main.py", "pyproject.toml", "README.md", "LICENSE", "PKG-INFO"} <= names
    assert {name.partition("/")[0] for name in names} <= {
        *("gateway", "schemas", "docs", "examples", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"),
        *("pyproject.toml", "PKG-INFO", ".gitignore"),
    }


def test_git_passes_over_what_the_readme_makes() -> None:
    for name in ("keys/main", "gateway.yaml", "offsets.sqlite"):
        ignored = subprocess.run(["git", "check-ignore", "-q", "--no-index", name], cwd=ROOT, check=False)
        assert ignored.returncode == 0, name
