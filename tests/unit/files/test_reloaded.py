"""What is made of files follows them, and survives files that cannot be used."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.errors import ConfigurationError
from gateway.reloaded import Reloaded, read_file
from gateway.small_files import PEM_BYTES


class Clock:
    """A clock that stands until it is moved."""

    time = 0.0

    def __call__(self) -> float:
        return self.time


def made(content: Mapping[str, bytes]) -> str:
    """Make a word of a file, unless it is `wrong`."""
    text = content["a.file"].decode()
    if text == "wrong":
        raise ConfigurationError("a.file", "is wrong", "Write another.")
    return text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("one")
    return path


def reloaded(file: Path, clock: Clock) -> Reloaded[str]:
    return Reloaded("a", {"a.file": file}, made, clock)


def test_a_change_is_seen_after_a_second_even_with_the_same_size_and_times(file: Path) -> None:
    clock = Clock()
    one = reloaded(file, clock)
    before = file.stat()
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert one.now() == "one"
    clock.time = 1.0
    assert one.now() == "two"


def test_what_cannot_be_used_is_an_error_once_and_what_was_before_holds(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway")
    clock = Clock()
    one = reloaded(file, clock)
    for content, holds, level in (
        ("wrong", "one", "ERROR"),
        ("wrong", "one", None),
        (None, "one", "ERROR"),
        (None, "one", None),
        ("one", "one", "INFO"),
        ("wrong", "one", "ERROR"),
        ("two", "two", "INFO"),
        ("two", "two", None),
    ):
        caplog.clear()
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_text(content)
        clock.time += 1
        assert one.now() == holds
        assert [record.levelname for record in caplog.records] == ([level] if level else [])


def test_files_that_change_while_they_are_read_are_read_again(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("old")
    two.write_text("old")
    reads: list[tuple[bytes, bytes]] = []

    def both(content: Mapping[str, bytes]) -> bytes:
        reads.append((content["one"], content["two"]))
        if len(reads) == 1:
            two.write_text("new")  # between the first look and the library's own
            raise ConfigurationError("two", "is not of one", "")
        if len(reads) == 2:
            one.write_text("new")
        return content["one"] + content["two"]

    assert Reloaded("pair", {"one": one, "two": two}, both).now() == b"newnew"
    assert reads == [(b"old", b"old"), (b"old", b"new"), (b"new", b"new")]


def test_files_that_never_stand_still_are_refused(file: Path) -> None:
    def changing(_: Mapping[str, bytes]) -> None:
        file.write_text(file.read_text() + "x")

    with pytest.raises(ConfigurationError, match=r"a\.file: changes whenever it is read"):
        Reloaded("a", {"a.file": file}, changing)


def test_what_is_no_small_regular_file_is_refused_without_a_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(bytes(PEM_BYTES + 1))
    for path, why in (
        (tmp_path / "fifo", "it is a FIFO"),
        (tmp_path, "Is a directory"),
        (tmp_path / "large", f"is larger than {PEM_BYTES} bytes"),
        (tmp_path / "absent", "No such file or directory"),
        (Path("/dev/zero"), "it is a device"),
    ):
        with pytest.raises(ConfigurationError) as refused:
            read_file("a.file", path)
        assert refused.value.setting == "a.file"
        assert why in refused.value.problem


def test_a_secret_in_the_place_of_a_name_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tls").mkdir()
    for secret in ("hunter2", "/hunter2", "hunter2\0", "hunter2" * 1000, "hunter2/with/slashes"):
        with pytest.raises(ConfigurationError) as refused:
            read_file("a.file", Path(secret))
        assert "hunter2" not in str(refused.value)
    for name in ("tls/absent", "/etc/gateway/control/tls.crt"):
        with pytest.raises(ConfigurationError, match=name):
            read_file("a.file", Path(name))
