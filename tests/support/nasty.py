"""Texts that must not reach a terminal as they are, by what each would do there; and the judge of what did."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

FORGED: Final = "FORGED"
TEXTS: Final = {
    "title": "\x1b]0;n4sty\x07",
    "link": "\x1b]8;;http://evil.example\x1b\\n4sty\x1b]8;;\x1b\\",
    "clear": "n4sty\x1b[2J\x1b[H",
    "colour": "\x1b[31mn4sty",
    "eight bits": "n4sty\x9b2J\x9d0;x\x9c",
    "bell": "n4sty\x07\x08\x08\x7f",
    "line": f"n4sty\n{FORGED} 1 main order-update",
    "return": f"n4sty\r{FORGED}",
    "separator": f"n4sty\u2028{FORGED}\u2029{FORGED}\x85{FORGED}\x0b{FORGED}\x0c{FORGED}",
    "order": "n4sty\u202egnp\u202c\u2066x\u2069\u200f\u061c",
    "no width": "n4\u200bs\u200dt\ufeffy n4sty\u034f\u3164\ufe0f\u2060",
    "tags": "n4sty\U000e0041\U000e007f\U000f0000\ue000\u0378",
    "closing markup": "n4sty\\[/x]",
    "markup": "[link=http://evil.example]n4sty[/link][bold]x[/bold]",
    "emoji code": "n4sty:smile:",
}
SURROGATE: Final = "n4sty\ud800"
"""JSON may hold it, UTF-8 may not."""
_OWN: Final = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[2K|\x1b\[\d*[AG]|\r(?=\n)|\r(?=\x1b\[[\d?])")
"""Colours, a hidden cursor and lines that are written anew: what Rich and structlog do on a terminal."""
_BAD: Final = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def judge(output: str, *, is_terminal: bool) -> list[str]:
    """Return what is wrong with all that a command wrote; `output` has surrogates for bytes that are no UTF-8."""
    output = _OWN.sub("", output) if is_terminal else output
    bad = {ascii(character) for character in output if character != "\n" and unicodedata.category(character) in _BAD}
    faults = [f"it wrote {character}" for character in sorted(bad)]
    faults += [f"a forged line: {line!r}" for line in output.splitlines() if line.lstrip().startswith(FORGED)]
    if "n4sty" not in output:
        faults.append(f"it did not show the text at all: {output!r}")
    return faults
