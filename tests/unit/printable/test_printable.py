"""Whatever is not seen as what it is becomes a code; everything else stays."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from gateway.bootstrap import terminal
from gateway.printable import is_printable, printable, printable_json
from tests.support.nasty import SURROGATE, TEXTS


def test_of_all_of_unicode_only_what_is_seen_stays() -> None:
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in hidden:
            assert is_printable(printable(character)), hex(code)
            assert printable(character).startswith("\\"), hex(code)


@pytest.mark.parametrize("text", ["", "plain [text] :smile:", "é 中 ü ß Ж ع 👍 e\u0301", "a\\x1bb", "C:\\temp"])
def test_what_is_printable_stays(text: str) -> None:
    assert printable(text) == printable_json(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J", "a\\x1b[2J"),
        ("\x00\n\t\x7f\x9b", "\\x00\\x0a\\x09\\x7f\\x9b"),
        ("\u202e\u2066\u200f\u061c", "\\u202e\\u2066\\u200f\\u061c"),
        ("\u200b\u2028\ufeff\ue000\ud800", "\\u200b\\u2028\\ufeff\\ue000\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\u3164\ufe0f", "\\u3164\\ufe0f"),
        ("é\x1b中", "é\\x1b中"),
    ],
)
def test_what_is_not_becomes_its_code(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize("text", [*TEXTS.values(), SURROGATE, "\U000e0041\U0010ffff", 'a"\\\u202e"'])
def test_json_means_the_same_and_is_one_line(text: str) -> None:
    value = {text: [text, {"x": text}]}
    for written in (json.dumps(value, ensure_ascii=False), json.dumps(value, ensure_ascii=False, indent=1)):
        shown = printable_json(written)
        assert json.loads(shown) == value
        assert is_printable(shown)


def test_the_commands_have_it_at_their_edge() -> None:
    assert terminal.printable is printable


def test_what_a_terminal_has_no_code_for_is_written_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import io  # noqa: PLC0415

    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    terminal.print_line("é 中", flush=True)
    assert out.buffer.getvalue() == b"\\xe9 \\u4e2d\n"  # type: ignore[attr-defined]
