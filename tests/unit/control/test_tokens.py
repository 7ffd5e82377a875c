"""The file of tokens: judged line by line, and a token ends with its line, whatever the system tells of the file."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.control.auth.principals import AccountScope, Principal, Role, read_scope
from gateway.control.auth.token_lines import line_of, read_lines, read_until
from gateway.control.auth.tokens import GRACE, Tokens, check_tokens_file, new_token
from gateway.errors import ConfigurationError

GOOD, LEAKED = "gateway_good", "gateway_leaked"
A_TOKEN = "gateway_" + "A" * 43
KEEPS = line_of("keeps", Role.VIEWER, GOOD)
LEAKS = line_of("leaks", Role.OPERATOR, LEAKED)


@dataclass
class Clock:
    """Seconds, and the time, as a test has them."""

    seconds: float = 0.0
    now: datetime = field(default_factory=lambda: datetime(2026, 6, 1, tzinfo=UTC))

    def __call__(self) -> float:
        return self.seconds


def tokens_of(path: Path, clock: Clock) -> Tokens:
    return Tokens(path, clock, lambda: clock.now)


def digest_of(token: str) -> str:
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def test_tokens_are_long_and_never_alike() -> None:
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    assert min(map(len, made)) > 43


# A token ends with its line ------------------------------------------------------------------------------------------


def line_taken_away(file: Path) -> None:
    file.write_text(KEEPS)


def line_commented_out(file: Path) -> None:
    file.write_text(f"{KEEPS}\n# {LEAKS}\n")


def typo_elsewhere(file: Path) -> None:
    file.write_text(f"{KEEPS}\nanother vewer {digest_of('x')}\n")


def binary_elsewhere(file: Path) -> None:
    file.write_bytes(KEEPS.encode() + b"\n\xff\xfe\x00\n")


def same_size_and_times(file: Path) -> None:
    """Replace the content in place, as `rsync --inplace -t` does."""
    before, size = file.stat(), file.stat().st_size
    file.write_text(KEEPS.ljust(size, "\n"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (size, before.st_mtime_ns)


def copied_with_its_times(file: Path) -> None:
    """Replace it as `cp -p` does with a file of the same size and time."""
    other = file.with_name("other")
    other.write_text(KEEPS.ljust(file.stat().st_size, "\n"))
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    shutil.copy2(other, file)


def renamed_with_its_times(file: Path) -> None:
    """Replace it as `rsync -t` does: another file of the same size and time takes its name."""
    other = file.with_name("other")
    other.write_text(KEEPS.ljust(file.stat().st_size, "\n"))
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.rename(file)


TRICKS = [
    line_taken_away,
    line_commented_out,
    typo_elsewhere,
    binary_elsewhere,
    same_size_and_times,
    copied_with_its_times,
    renamed_with_its_times,
]


@pytest.mark.parametrize("trick", TRICKS)
def test_a_token_ends_with_its_line_and_the_others_count(tokens_file: Path, trick: Callable[[Path], None]) -> None:
    clock = Clock()
    tokens_file.write_text(f"{KEEPS}\n{LEAKS}\n")
    tokens = tokens_of(tokens_file, clock)
    assert tokens.authenticate(LEAKED) == Principal("leaks", Role.OPERATOR)
    trick(tokens_file)
    clock.seconds += 1
    assert tokens.authenticate(LEAKED) is None
    assert tokens.authenticate(GOOD) == Principal("keeps", Role.VIEWER)


def test_a_token_ends_when_the_link_to_its_file_leads_elsewhere(tmp_path: Path) -> None:
    """As Kubernetes exchanges a Secret: `tokens` → `..data/tokens`, and `..data` is renamed over."""
    clock = Clock()
    for version, content in (("v1", f"{KEEPS}\n{LEAKS}\n"), ("v2", KEEPS)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "tokens").write_text(content)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "tokens").symlink_to("..data/tokens")
    tokens = tokens_of(tmp_path / "tokens", clock)
    assert tokens.authenticate(LEAKED) is not None
    (tmp_path / "..data_tmp").symlink_to("v2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    clock.seconds += 1
    assert tokens.authenticate(LEAKED) is None
    assert tokens.authenticate(GOOD) is not None


def removed(file: Path) -> None:
    file.unlink()


def directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def circle(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def huge(file: Path) -> None:
    file.write_text(f"{KEEPS}\n{LEAKS}\n" + "#" * 2**20)


def bound_socket(file: Path) -> None:
    file.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(file))


UNREADABLE = [removed, directory, pipe, device, circle, huge, bound_socket]


@pytest.mark.parametrize("trick", UNREADABLE)
def test_tokens_of_a_file_that_cannot_be_read_end_after_the_grace(
    tokens_file: Path, trick: Callable[[Path], None]
) -> None:
    clock = Clock()
    tokens_file.write_text(f"{KEEPS}\n{LEAKS}\n")
    tokens = tokens_of(tokens_file, clock)
    trick(tokens_file)
    with capture_logs() as logs:
        clock.seconds += 1
        assert tokens.authenticate(LEAKED) is not None
        assert tokens.problems == 1
        clock.seconds += GRACE / 2
        assert tokens.authenticate(GOOD) is not None
        clock.seconds += GRACE / 2
        assert tokens.authenticate(LEAKED) is tokens.authenticate(GOOD) is None
        for _ in range(100):
            clock.seconds += 1
            assert tokens.authenticate(LEAKED) is None
    assert [line["log_level"] for line in logs] == ["error", "error"]
    assert "its tokens have expired" in logs[-1]["event"]


def test_an_exchange_that_takes_a_moment_locks_nobody_out(tokens_file: Path) -> None:
    clock = Clock()
    tokens_file.write_text(f"{KEEPS}\n{LEAKS}\n")
    tokens = tokens_of(tokens_file, clock)
    tokens_file.unlink()
    clock.seconds += 1
    assert tokens.authenticate(GOOD) is not None
    tokens_file.write_text(KEEPS)
    clock.seconds += 1
    assert (tokens.authenticate(GOOD) is not None, tokens.authenticate(LEAKED)) == (True, None)
    tokens_file.unlink()
    clock.seconds += GRACE - 1  # another absence has a grace of its own
    assert tokens.authenticate(GOOD) is not None


def test_a_file_that_comes_back_lets_in_again(tokens_file: Path) -> None:
    clock = Clock()
    tokens_file.write_text(f"{KEEPS}\n")
    tokens = tokens_of(tokens_file, clock)
    tokens_file.rename(tokens_file.with_name("away"))
    for _ in range(2):
        clock.seconds += GRACE
        tokens.reload()
    assert tokens.authenticate(GOOD) is None
    tokens_file.with_name("away").rename(tokens_file)
    clock.seconds += 1
    assert tokens.authenticate(GOOD) is not None
    assert tokens.problems == 0


@pytest.mark.parametrize("trick", [*UNREADABLE, removed])
def test_a_file_that_cannot_be_read_is_refused_at_the_start_at_once(
    tokens_file: Path, trick: Callable[[Path], None]
) -> None:
    tokens_file.write_text("")
    trick(tokens_file)
    found: list[BaseException] = []

    def read() -> None:
        try:
            check_tokens_file(tokens_file)
        except ConfigurationError as error:
            found.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)  # where it waits for a pipe's writer it does so for ever
    assert not thread.is_alive()
    assert str(found[0]).startswith("control.tokens_file: ")


HALVES = [
    ("", " accounts=eu-* until=2026-12-31"),
    (" accounts=eu-*", "main"),
    (" accounts=eu-*", ",main until=2026-01-01"),
    (" until=2026-06-01", "T00:00:00Z"),
]
"""What a look saw of a line, and what came after it."""


@pytest.mark.parametrize(("cut", "rest"), HALVES)
def test_a_half_written_line_at_the_start_allows_no_more_than_the_whole(tokens_file: Path, cut: str, rest: str) -> None:
    clock = Clock()
    tokens_file.write_text(f"{KEEPS}\n{LEAKS}{cut}")
    with capture_logs() as logs:
        tokens = tokens_of(tokens_file, clock)
        assert (tokens.authenticate(GOOD) is None, tokens.authenticate(LEAKED), tokens.problems) == (False, None, 0)
    assert (tokens.is_unfinished, logs) == (True, [])
    with tokens_file.open("a") as written:
        written.write(f"{rest}\n")
    tokens.look()
    found = tokens.authenticate(LEAKED)
    assert found is None or "eu-*" in (found.accounts.patterns or ())[0]
    assert not tokens.is_unfinished


def test_an_unfinished_line_at_the_start_counts_from_the_second_look_on(
    tokens_file: Path,
) -> None:
    tokens_file.write_text(f"{KEEPS}\n{LEAKS}")
    tokens = tokens_of(tokens_file, Clock())
    assert (tokens.is_unfinished, tokens.count) == (True, 1)
    tokens.look()
    assert (tokens.is_unfinished, tokens.count) == (False, 2)
    assert tokens.authenticate(LEAKED) == Principal("leaks", Role.OPERATOR)


@pytest.mark.parametrize(("cut", "rest"), HALVES)
def test_a_half_written_line_allows_no_more_than_the_whole_one(tokens_file: Path, cut: str, rest: str) -> None:
    """Of a file that is written in place a look may see a part: half a line can have a wider scope, or no end."""
    clock = Clock()
    tokens_file.write_text(f"{KEEPS}\n")
    tokens = tokens_of(tokens_file, clock)
    with tokens_file.open("a") as written:
        written.write(f"{LEAKS}{cut}")
        written.flush()
        clock.seconds += 1
        assert (tokens.authenticate(GOOD) is None, tokens.authenticate(LEAKED), tokens.problems) == (False, None, 0)
        written.write(f"{rest}\n")
    clock.seconds += 1
    found = tokens.authenticate(LEAKED)
    assert found is None or "eu-*" in (found.accounts.patterns or ())[0]


def test_last_line_without_its_end_counts_once_two_looks_agree(tokens_file: Path) -> None:
    """Secrets and `printf` often end without a line feed. What was known before goes on without a break."""
    clock = Clock()
    tokens_file.write_text(f"{LEAKS}\n")
    tokens = tokens_of(tokens_file, clock)
    tokens_file.write_text(f"{LEAKS}\n{KEEPS}")
    clock.seconds += 1
    assert (tokens.authenticate(GOOD), tokens.authenticate(LEAKED) is None) == (None, False)
    clock.seconds += 1
    assert tokens.authenticate(GOOD) == Principal("keeps", Role.VIEWER)
    tokens_file.write_text(KEEPS)
    clock.seconds += 1
    assert (tokens.authenticate(GOOD) is None, tokens.authenticate(LEAKED)) == (False, None)


def test_a_wrong_last_line_without_end_is_told_once_two_looks_agree(tokens_file: Path) -> None:
    clock = Clock()
    tokens_file.write_text(f"{KEEPS}\n")
    tokens = tokens_of(tokens_file, clock)
    tokens_file.write_text(f"{KEEPS}\nhalf a")
    with capture_logs() as logs:
        for problems in (0, 1, 1):
            clock.seconds += 1
            tokens.reload()
            assert tokens.problems == problems
    assert [line["line"] for line in logs if line["log_level"] == "error"] == [2]


def test_the_file_is_read_once_a_second_at_most(tokens_file: Path) -> None:
    clock = Clock()
    tokens_file.write_text(f"{KEEPS}\n")
    tokens = tokens_of(tokens_file, clock)
    tokens_file.write_text("")
    clock.seconds += 0.9
    assert tokens.authenticate(GOOD) is not None
    clock.seconds += 0.1
    assert tokens.authenticate(GOOD) is None


def test_a_file_that_cannot_be_read_leaves_no_file_open(tokens_file: Path) -> None:
    tokens_file.mkdir()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - their number
    for _ in range(20):
        with pytest.raises(ConfigurationError):
            check_tokens_file(tokens_file)
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208 - likewise


# Lines ---------------------------------------------------------------------------------------------------------------

WRONG = [
    ("one viewer", "it has 2 words"),
    ("o*e viewer sha256:" + "0" * 64, "first word is no name"),
    ("one admin sha256:" + "0" * 64, "second word is no role"),
    ("one Viewer sha256:" + "0" * 64, "second word is no role"),
    ("one viewer " + "0" * 64, "third word is no digest"),
    ("one viewer sha256:" + "0" * 63, "third word is no digest"),
    ("one viewer sha256:" + "A" * 64, "third word is no digest"),
    ("one viewer sha256:" + "\N{FULLWIDTH DIGIT ZERO}" * 64, "third word is no digest"),
    (f"one operator {digest_of('')}", "that of the empty token"),
    (f"one viewer {A_TOKEN}", "third word is no digest"),
    (f"one viewer {digest_of('x')} {A_TOKEN}", "word 4 is not known"),
    (f"one viewer {digest_of('x')} main", "word 4 is not known"),
    (f"one viewer {digest_of('x')} account=main", "word 4 is not known"),
    (f"one viewer {digest_of('x')} Accounts=main", "word 4 is not known"),
    (f"one viewer {digest_of('x')} # a comment", "word 4 is not known"),
    (f"one viewer {digest_of('x')} accounts=", "pattern 1"),
    (f"one viewer {digest_of('x')} accounts=main,", "pattern 2"),
    (f"one viewer {digest_of('x')} accounts=main, eu", "word 5 is not known"),
    (f"one viewer {digest_of('x')} accounts=[m]ain", "pattern 1"),
    (f"one viewer {digest_of('x')} accounts=m?in", "pattern 1"),
    (f"one viewer {digest_of('x')} accounts=a accounts=b", "accounts= twice"),
    (f"one viewer {digest_of('x')} until=tomorrow", "until="),
    (f"one viewer {digest_of('x')} until=", "until="),
    (f"one viewer {digest_of('x')} until=2027-02-30", "until="),
    (f"one viewer {digest_of('x')} until=20270101", "until="),
    (f"one viewer {digest_of('x')} until=2027-W01-1", "until="),
    (f"one viewer {digest_of('x')} until=2027-01-01T00:00:00", "until="),
    (f"one viewer {digest_of('x')} until=2027-01-01 until=2028-01-01", "until= twice"),
    (f"\N{ZERO WIDTH NO-BREAK SPACE}one viewer {digest_of('x')}", "first word is no name"),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_a_wrong_line_lets_nobody_in_is_told_once_and_is_not_repeated(
    tokens_file: Path, line: str, message: str
) -> None:
    clock = Clock()
    tokens_file.write_text(f"{KEEPS}\n\n{line}\n{LEAKS}\n")
    with capture_logs() as logs:
        tokens = tokens_of(tokens_file, clock)
        for _ in range(3):
            clock.seconds += 1
            assert tokens.authenticate(GOOD) is not None
            assert tokens.authenticate("x") is tokens.authenticate("") is None
            assert tokens.authenticate(LEAKED) is not None
    (logged,) = [log for log in logs if log["log_level"] == "error"]
    assert (logged["line"], tokens.problems) == (3, 1)
    assert message in logged["error"]
    for word in line.split():
        assert len(word) < 20 or word not in str(logs)


def test_a_comment_hides_no_line(tokens_file: Path) -> None:
    for hidden in ("\f", "\v", "\x1c", "\x85", "\N{LINE SEPARATOR}", "\r"):
        tokens_file.write_bytes(f"# a comment{hidden}{LEAKS}\n".encode())
        assert tokens_of(tokens_file, Clock()).authenticate(LEAKED) is None


def test_lines_may_end_as_windows_ends_them_and_begin_with_spaces(tokens_file: Path) -> None:
    tokens_file.write_bytes(f"  {KEEPS}\r\n\t{LEAKS.replace(' ', '  ')} \r\n".encode())
    tokens = tokens_of(tokens_file, Clock())
    assert tokens.authenticate(GOOD) is not None
    assert tokens.authenticate(LEAKED) is not None


@pytest.mark.parametrize(
    "other",
    [
        line_of("leaks", Role.VIEWER, LEAKED),
        line_of("other", Role.OPERATOR, LEAKED),
        line_of("leaks", Role.OPERATOR, LEAKED, accounts="main"),
        line_of("leaks", Role.OPERATOR, LEAKED, until="2030-01-01"),
        f"leaks viewer {digest_of(LEAKED)} acounts=main",
    ],
)
def test_a_digest_in_two_lines_that_differ_lets_nobody_in(tokens_file: Path, other: str) -> None:
    tokens_file.write_text(f"{other}\n{KEEPS}\n{LEAKS}\n")
    tokens = tokens_of(tokens_file, Clock())
    assert tokens.authenticate(LEAKED) is None
    assert tokens.authenticate(GOOD) is not None
    assert tokens.problems == 2


def test_a_line_that_stands_there_twice_counts_once(tokens_file: Path) -> None:
    tokens_file.write_text(f"{LEAKS}\n{LEAKS}\n")
    tokens = tokens_of(tokens_file, Clock())
    assert (tokens.authenticate(LEAKED), tokens.problems) == (Principal("leaks", Role.OPERATOR), 0)


def test_of_many_wrong_lines_the_log_tells_the_first_and_how_many_more() -> None:
    entries, faults = read_lines(b"x\n" * 50_000)
    assert (entries, len(faults)) == ([], 50_000)


def test_the_log_of_a_file_full_of_wrong_lines_is_short(tokens_file: Path) -> None:
    tokens_file.write_text("x\n" * 500_000)
    with capture_logs() as logs:
        tokens_of(tokens_file, Clock())
    assert len(logs) == 12
    assert logs[-2]["lines"] == 499_990


# Expiry --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("until", "end"),
    [
        ("2026-12-31", "2027-01-01T00:00:00+00:00"),
        ("2026-12-31T18:30:00Z", "2026-12-31T18:30:00+00:00"),
        ("2026-12-31T18:30:00.5+02:00", "2026-12-31T16:30:00.500000+00:00"),
        ("2028-02-29", "2028-03-01T00:00:00+00:00"),
    ],
)
def test_a_day_ends_in_utc_and_a_time_when_it_says(until: str, end: str) -> None:
    assert read_until(until).isoformat() == end


def test_a_token_expires_while_the_gateway_runs(tokens_file: Path) -> None:
    clock = Clock()
    tokens_file.write_text(line_of("brief", Role.OPERATOR, GOOD, until="2026-06-01") + "\n")
    tokens = tokens_of(tokens_file, clock)
    clock.now = datetime(2026, 6, 1, 23, 59, 59, 999_999, tzinfo=UTC)
    assert tokens.authenticate(GOOD) is not None
    clock.now = datetime(2026, 6, 2, tzinfo=UTC)  # and no second has passed since the file was looked at
    assert tokens.authenticate(GOOD) is None
    assert tokens.problems == 0


# Scope ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "inside", "outside"),
    [
        ("main", ["main"], ["main2", "Main", "mai", ""]),
        ("main,eu-*", ["main", "eu-", "eu-1"], ["us-1", "main-eu-1", "eu"]),
        ("*", ["main", "eu-1"], []),
        ("*-eu", ["a-eu", "-eu"], ["eu", "a-eu-1"]),
        ("a*b*c", ["abc", "axbxc", "abbc"], ["ab", "acb", "abcd"]),
        ("a*a", ["aa", "aba"], ["a"]),
        ("**", ["x", ""], []),
    ],
)
def test_a_star_stands_for_any_letters_and_nothing_else_is_a_wildcard(
    patterns: str, inside: list[str], outside: list[str]
) -> None:
    scope = read_scope(patterns)
    assert [name for name in inside if name not in scope] == []
    assert [name for name in outside if name in scope] == []


def test_a_pattern_of_many_stars_costs_no_more_than_its_length() -> None:
    scope = read_scope(",".join(["*a" * 31] * 100))
    for _ in range(100):
        assert "a" * 30 + "b" * 33 not in scope


def test_a_line_without_accounts_is_for_all() -> None:
    (entry,), _ = read_lines(KEEPS.encode())
    assert entry.principal.accounts == AccountScope()
    assert "whatever" in entry.principal.accounts


@pytest.mark.parametrize(
    ("name", "accounts", "until", "message"),
    [
        ("o*e", None, None, "first word"),
        ("one", "ma in", None, "space"),
        ("one", "", None, "pattern 1"),
        ("one", None, "yesterday", "until="),
        ("one", None, "2027-01-01T00:00:00Z\nmallory", "space"),
    ],
)
def test_a_line_that_would_let_nobody_in_is_not_made(
    name: str, accounts: str | None, until: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        line_of(name, Role.VIEWER, GOOD, accounts=accounts, until=until)
