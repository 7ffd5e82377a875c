"""No file is opened but by `gateway.small_files`, however a setting names it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pytest

ROOM: Final = Path(__file__).parents[3] / "gateway"
_ALLOWED: Final = {
    "small_files.py": "the way in itself",
    "bootstrap/monitor_main.py": "its own standard input",
    "bootstrap/terminal.py": "the process's own standard streams",
    "pem.py": "what OpenSSL opens is a copy in memory",
    "broker/jetstream/embedded.py": "files of the demo's own server, in the demo's own folder",
}
_READS: Final = {"read_text", "read_bytes", "load_verify_locations", "load_cert_chain", "fdopen", "readlink"}
_NAMED: Final = {"cafile", "capath", "certfile", "keyfile"}


def reads(source: str) -> list[int]:
    """Return the lines of a module on which a file may be read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
        is_file = name == "open" and (
            isinstance(called, ast.Name)
            or ast.unparse(called) in {"os.open", "io.open"}
            or any(isinstance(one, ast.Constant) and isinstance(one.value, str) for one in node.args)
        )
        if is_file or name in _READS or any(keyword.arg in _NAMED for keyword in node.keywords):
            found.append(node.lineno)
    return found


def test_nobody_reads_past_the_one_way_in() -> None:
    past = [
        f"gateway/{name}:{line}"
        for path in ROOM.rglob("*.py")
        if (name := path.relative_to(ROOM).as_posix()) not in _ALLOWED
        for line in reads(path.read_text("utf-8"))
        if "devnull" not in path.read_text("utf-8").splitlines()[line - 1]
    ]
    assert past == [], "read by gateway.small_files or gateway.pem"


@pytest.mark.parametrize(
    "defect",
    [
        "open(path)",
        "path.open('rb')",
        "path.read_text('utf-8')",
        "path.read_bytes()",
        "os.open(path, os.O_RDONLY)",
        "ssl.create_default_context(cafile=path)",
        "context.load_cert_chain(a, b)",
        "with io.open(path) as file: pass",
    ],
)
def test_a_planted_defect_is_found(defect: str) -> None:
    assert reads(defect)


@pytest.mark.parametrize("fine", ["log.open(3)", "door.open()", "read_small(path, 3)", "reopen(path)"])
def test_what_reads_no_file_is_not(fine: str) -> None:
    assert reads(fine) == []
