"""UUIDs in the formats that .NET's `Guid` writes, in one canonical spelling."""

from __future__ import annotations

import re
from typing import Final

UUID_PATTERN: Final = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
"""The canonical form."""

CANONICAL_UUID: Final = re.compile(UUID_PATTERN[1:-1])

NO_ID: Final = "00000000-0000-0000-0000-000000000000"
"""An id that means none: .NET's Guid.Empty."""

LONGEST: Final = 68
"""Characters of the longest format."""


def canonical_uuid(text: str) -> str:
    """Return a UUID in lower case with its hyphens: .NET's format D.

    Takes the formats D, N (no hyphens), B (in braces), P (in parentheses) and X (hexadecimal fields, as C writes a
    GUID), in any letter case. Raises ValueError with what would be right.
    """
    if CANONICAL_UUID.fullmatch(text):
        return text
    if len(text) > LONGEST or _FORMATS.fullmatch(text) is None:
        raise ValueError("a UUID such as 10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0 would be right")
    digits = _NOT_DIGITS.sub("", text).lower()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_H: Final = "[0-9A-Fa-f]"
_D: Final = f"{_H}{{8}}(?:-{_H}{{4}}){{3}}-{_H}{{12}}"
_X: Final = rf"\{{0x{_H}{{8}},0x{_H}{{4}},0x{_H}{{4}},\{{0x{_H}{{2}}(?:,0x{_H}{{2}}){{7}}\}}\}}"
_FORMATS: Final = re.compile(rf"{_D}|{_H}{{32}}|\{{{_D}\}}|\({_D}\)|{_X}")
_NOT_DIGITS: Final = re.compile(f"0x|[^{_H[1:-1]}]")
