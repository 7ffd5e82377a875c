"""The lines of the tokens' file, judged one by one: an invalid line gives no access.

A line is `<name> <role> sha256:<digest>`, optionally followed by `accounts=<patterns>` and `until=<time>`. Empty lines,
and lines that begin with #, have no meaning. A problem is reported without the line: it may hold a token by mistake.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from gateway.accounts import NAME_RULE, is_account_name
from gateway.control.auth.principals import EVERY_ACCOUNT, Principal, Role, read_scope

SCHEME: Final = "sha256:"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_EMPTY: Final = hashlib.sha256(b"").digest()
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_SEPARATOR: Final = re.compile(r"[ \t]+")
_NEEDED: Final = 3
"""Fields of each line: name, role, digest."""
_OPTIONS: Final = ("accounts", "until")


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """A token that gives access."""

    principal: Principal
    digest: bytes
    until: datetime | None = None
    """The moment from which it gives no access; None for never."""

    def is_valid(self, now: datetime) -> bool:
        """Return whether it has not expired."""
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True)
class LineError:
    """A line that gives no access."""

    number: int
    problem: str

    def __str__(self) -> str:
        return f"line {self.number}: {self.problem}"


def read_lines(content: bytes) -> tuple[list[TokenEntry], list[LineError]]:
    """Return the entries of a file's lines, and the invalid lines, which have none.

    A digest in two different lines gives no entry either: it is unknown which of them is right.
    """
    entries: dict[bytes, TokenEntry] = {}
    faults: list[LineError] = []
    lines = list(_lines(content))
    meanings = Counter(digest for digest, _ in {(_digest_in(fields), tuple(fields)) for _, fields in lines} if digest)
    for number, fields in lines:
        try:
            entry = _entry(fields)
            if meanings[fields[2]] > 1:
                raise ValueError("its digest stands in another line too, with other words")  # noqa: TRY301 - likewise wrong
        except ValueError as error:
            faults.append(LineError(number, str(error)))
        else:
            entries[entry.digest] = entry
    return list(entries.values()), faults


def read_until(text: str) -> datetime:
    """Return the moment at which `until=` ends a token: the end of a day in UTC, or a time; raises ValueError."""
    try:
        if _DATE.fullmatch(text):
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # the 30th of February, or the end of the last year that there is
        pass
    raise ValueError("its until= must be a day, such as 2027-01-31, or an RFC 3339 time, such as 2027-01-31T18:00:00Z")


def line_of(name: str, role: Role, token: str, *, accounts: str | None = None, until: str | None = None) -> str:
    """Return the line that lets `token` in; raises ValueError where a field of it would be wrong."""
    fields = [name, role.value, f"{SCHEME}{hashlib.sha256(token.encode()).hexdigest()}"]
    fields += [
        f"{option}={value}" for option, value in zip(_OPTIONS, (accounts, until), strict=True) if value is not None
    ]
    if any(not field or re.search(r"\s", field) for field in fields):
        raise ValueError("no word of the line may be empty or hold a space")
    _entry(fields)
    return " ".join(fields)


def _lines(content: bytes) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the number and the fields of each line that is to mean something.

    Lines end at a line feed alone: `str.splitlines` would also find one behind a form feed within a comment.
    """
    for number, line in enumerate(content.decode("utf-8", "replace").split("\n"), 1):
        text = line.removesuffix("\r").strip(" \t")
        if text and not text.startswith("#"):
            yield number, _SEPARATOR.split(text)


def _digest_in(fields: Sequence[str]) -> str:
    return fields[2] if len(fields) >= _NEEDED and fields[2].startswith(SCHEME) else ""


def _entry(fields: Sequence[str]) -> TokenEntry:
    """Return what a line gives; raises ValueError."""
    if len(fields) < _NEEDED:
        raise ValueError(f"it has {len(fields)} words, and at least {_NEEDED} are needed")
    name, role, digest, *options = fields
    if not is_account_name(name):
        raise ValueError(f"its first word is no name ({NAME_RULE})")
    if role not in {known.value for known in Role}:
        raise ValueError("its second word is no role (viewer or operator)")
    if not digest.startswith(SCHEME) or not _DIGEST.fullmatch(digest.removeprefix(SCHEME)):
        raise ValueError("its third word is no digest (sha256: and 64 hexadecimal digits in lower case)")
    raw = bytes.fromhex(digest.removeprefix(SCHEME))
    if raw == _EMPTY:
        raise ValueError("its digest is that of the empty token")
    given = _options(options)
    accounts = EVERY_ACCOUNT if "accounts" not in given else read_scope(given["accounts"])
    until = None if "until" not in given else read_until(given["until"])
    return TokenEntry(Principal(name, Role(role), accounts), raw, until)


def _options(fields: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for place, field in enumerate(fields, _NEEDED + 1):
        option, equals, value = field.partition("=")
        if not equals or option not in _OPTIONS:
            raise ValueError(f"its word {place} is not known (accounts=… and until=… are)")
        if option in given:
            raise ValueError(f"it says {option}= twice")
        given[option] = value
    return given
