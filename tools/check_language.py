"""Check what Python files say: how docstrings begin, the words of names, the length of tests' names, whom tests import.

    python tools/check_language.py gateway tests

A function's docstring says what it returns or does, in the words that every reader knows. A name is made of the field's
terms. A test's name is a sentence that a line of pytest's report holds. It prints each that is not so, and its exit
code is then 1. See "How to write" and "Tests" in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

INSTEAD: Final = {
    "Give": "Return, or Yield where it is a generator",
    "Gives": "Return",
    "Returns": "Return",
    "Tell": "Return whether; Log or Report where somebody is told",
    "Tells": "Return whether",
}
"""Words that no docstring of a function may begin with, and what to write."""
TERMS: Final = {
    "buried": "dead_lettered",
    "complain": "print_error, or log",
    "complained": "stderr, or logged",
    "complains": "wait_for_log, or logs",
    "complaint": "violation, or error",
    "complaints": "violations, or errors",
    "ear": "inbox",
    "filling": "pending",
    "hear": "receive",
    "heard": "received",
    "hears": "receives, or wait_for_output",
    "innards": "client_internals",
    "meant": "expected",
    "patience": "timeout",
    "said": "stdout, output or message",
    "say": "log, print or run",
    "saying": "sending",
    "says": "message",
    "standing": "stored, or current",
    "tally": "counters",
    "tell": "report, or note",
    "telling": "root_cause",
    "tells": "reports",
    "told": "reported, or logged",
    "wish": "desired",
    "wished": "desired",
    "wishes": "desired_state",
    "words": "message, detail, text, fields or arguments",
}
"""Words that no name may hold, and the term of the field in their place."""
OF_SENTENCES: Final = frozenset(
    {"complain", "hear", "heard", "hears", "said", "say", "saying", "says", "standing", "tell", "telling", "tells"}
    | {"told", "words"}
)
"""Words of those that the name of a test may hold: it is a sentence."""
LONGEST: Final = 70
"""Characters of a test's name, without its parameters."""
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def violations(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the violation of each node of a module that breaks a rule."""
    for node in ast.walk(ast.parse(source)):
        for violation in _violations_of(node):
            yield getattr(node, "lineno", 1), violation


def _violations_of(node: ast.AST) -> Iterator[str]:
    """Yield what is wrong with one node."""
    for name in _names_in(node):
        allowed = OF_SENTENCES if name.startswith("test_") else frozenset()
        for word in map(str.lower, _WORD.findall(name)):
            if word in TERMS and word not in allowed:
                yield f"{name} holds the word {word}: the field says {TERMS[word]}"
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            first, _, _ = (ast.get_docstring(node) or "").partition(" ")
            if first in INSTEAD:
                yield f"the docstring of {name} begins with {first}: write {INSTEAD[first]}"
            if name.startswith("test_") and len(name) > LONGEST:
                yield f"{name} has {len(name)} characters: say it in {LONGEST}"
        case ast.ImportFrom(module=str(module), names=names):
            yield from map(_shared, filter(_is_test, [f"{module}.{one.name}" for one in names]))
        case ast.Import(names=names):
            yield from map(_shared, filter(_is_test, [one.name for one in names]))


def _names_in(node: ast.AST) -> Iterator[str]:
    """Yield the name that a node gives to something."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            pass
        case ast.arg(arg=name) | ast.alias(asname=str(name)):
            pass
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            pass
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            pass
        case ast.MatchMapping(rest=str(name)):
            pass
        case _:
            return
    yield name


def _is_test(module: str) -> bool:
    """Return whether a module of tests is imported, or something of one."""
    top, *parts = module.split(".")
    return top == "tests" and any(part.startswith("test_") for part in parts)


def _shared(module: str) -> str:
    return f"{module} is a test or a part of one: what tests share stands in a module without tests"


def main(folders: list[str]) -> int:
    """Print what is wrong in the Python files of `folders`; return the exit code."""
    found = [
        f"{file}:{line}: {violation}"
        for folder in folders
        for file in sorted(Path(folder).rglob("*.py"))
        for line, violation in violations(file.read_text("utf-8"))
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
