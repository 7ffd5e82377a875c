"""Check that a public class of the package has its name alone.

    python tools/check_class_names.py gateway

A reader who meets a name knows by it which class is meant. The two brokers' adapters are parallel, so one may
have the other's class names. Schemas of the HTTP API have the public names of its resources, and the
code refers to them by their module: `models.Replay`. Each other name that several classes have is printed, and the exit
code is 1.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

ADAPTERS: Final = ("gateway/broker/jetstream/", "gateway/broker/kafka/")
"""Folders in which a name may stand once each."""
API_SCHEMAS: Final = ("gateway/control/models.py", "gateway/control/problem_models.py")
"""Modules whose classes have the names of the API's schemas."""


def violations(files: Mapping[str, str]) -> Iterator[str]:
    """Yield a violation for each name that classes of several files have, by the files' sources."""
    places: dict[str, list[str]] = defaultdict(list)
    for file, source in files.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and file not in API_SCHEMAS:
                places[node.name].append(file)
    for name, found in sorted(places.items()):
        if len(found) > 1 and not _is_parallel(found):
            yield f"{name} is a class in each of {', '.join(found)}: let each have a name of its own"


def _is_parallel(files: list[str]) -> bool:
    """Return whether each file is in an adapter's folder, at most one in each."""
    folders = [next((one for one in ADAPTERS if file.startswith(one)), None) for file in files]
    return None not in folders and len(set(folders)) == len(folders)


def main(folders: list[str]) -> int:
    """Print the names that several classes have in the Python files of `folders`; return the exit code."""
    files = {
        file.as_posix(): file.read_text("utf-8") for folder in folders for file in sorted(Path(folder).rglob("*.py"))
    }
    found = list(violations(files))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
