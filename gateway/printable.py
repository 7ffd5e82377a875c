r"""Foreign text made fit for people: one line, in which every character is seen and none is a command.

A terminal obeys control characters (ESC and the 8-bit CSI among them), shows text in another order after bidirectional
controls, and shows nothing at all for zero-width characters, tags and what Unicode has not assigned. So the author of
an event, a file's name or an error's text could forge a line, hide one, or set the terminal's title.
"""

from __future__ import annotations

import re
from typing import Final

_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""What Python takes for printable and no terminal shows: the rest of Unicode's Default_Ignorable_Code_Point."""
_BMP: Final = 0xFFFF


def is_printable(text: str) -> bool:
    """Return whether every character of a text is seen as what it is."""
    return text.isprintable() and (text.isascii() or _INVISIBLE.search(text) is None)


def printable(text: str) -> str:
    r"""Return a text with each character that is not printable as `\xNN`, `\uNNNN` or `\UNNNNNNNN`.

    Letters and signs of all scripts stay, and so does a backslash: to do it twice changes nothing. Of the spaces only
    the usual one stays, so that what looks like one is one.
    """
    if is_printable(text):
        return text
    return "".join(character if is_printable(character) else _escape(ord(character)) for character in text)


def printable_json(text: str) -> str:
    r"""Return a JSON text on one line, with each character in its strings that is not printable as `\uNNNN`.

    It stays the same JSON. The text must be valid: then a line break or a tab stands between values alone.
    """
    if is_printable(text):
        return text
    return "".join(character if is_printable(character) else _escape_json(ord(character)) for character in text)


def _escape(code: int) -> str:
    if code <= 0xFF:  # noqa: PLR2004 - two digits
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _BMP else f"\\U{code:08x}"


def _escape_json(code: int) -> str:
    if code < ord(" "):
        return " "
    if code <= _BMP:
        return f"\\u{code:04x}"
    above = code - _BMP - 1
    return f"\\u{0xD800 + (above >> 10):04x}\\u{0xDC00 + (above & 0x3FF):04x}"
