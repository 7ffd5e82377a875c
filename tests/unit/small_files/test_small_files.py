"""Whatever stands where a small file should: it is refused at once, in words, and nothing waits."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from gateway.accounts import AccountsDirectory
from gateway.broker.credentials import BrokerLogin
from gateway.control.auth.tokens import Tokens
from gateway.errors import ConfigurationError
from gateway.pem import trusting
from gateway.settings.load import load_settings
from gateway.settings.sections import TracingSettings
from gateway.small_files import UnreadableFile, exposure_of, read_small, read_small_text
from gateway.telemetry import tracer as traces

LIMIT: Final = 1000


def fifo(path: Path) -> None:
    os.mkfifo(path)


def zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def terminal(path: Path) -> None:
    path.symlink_to("/dev/ptmx")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path is short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def endless(path: Path) -> None:
    path.symlink_to("/proc/kallsyms")  # its size is 0, and it has megabytes


def folder(path: Path) -> None:
    path.mkdir()


def absent(_: Path) -> None:
    pass


MADE: Final = {
    fifo: "cannot be read (it is a FIFO)",
    zero: "cannot be read (it is a device)",
    terminal: "cannot be read (it is a device)",
    listening: "cannot be read (it is a socket)",
    loop: "cannot be read (Too many levels of symbolic links)",
    sparse: "is larger than",
    endless: "is larger than",
    folder: "cannot be read (Is a directory)",
    absent: "cannot be read (No such file or directory)",
}
Make = Callable[[Path], None]


@pytest.fixture(params=MADE, ids=lambda make: make.__name__)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Make what is no small file; give its path, and what is to be said of it."""
    path = tmp_path / "file"
    request.param(path)
    return path, MADE[request.param]


def test_it_is_refused_with_path_problem_and_remedy(made: tuple[Path, str]) -> None:
    path, message = made
    with pytest.raises(UnreadableFile) as refused:
        read_small(path, LIMIT)
    assert message in refused.value.problem
    assert (refused.value.path, str(refused.value)) == (
        path,
        f"{path} {refused.value.problem}. Name a file that the gateway may read.",
    )


def test_wherever_the_gateway_reads_one(made: tuple[Path, str]) -> None:
    path, message = made
    for read in (
        lambda: AccountsDirectory(path.parent).key(path.name),
        lambda: Tokens(path),
        lambda: load_settings(path, {}),
        lambda: BrokerLogin(ca_file=path).tls(),
        lambda: BrokerLogin(cert_file=path).tls(),
        lambda: BrokerLogin(user="x", password_file=path).login(lambda: None),
        lambda: BrokerLogin(credentials_file=path).login(lambda: None),
        lambda: traces.check(TracingSettings(endpoint="http://127.0.0.1:1", headers_file=path)),
        lambda: traces.check(TracingSettings(endpoint="http://127.0.0.1:1", ca_file=path)),
    ):
        with pytest.raises(ConfigurationError) as refused:
            read()
        if path.exists() or path.is_symlink() or "No such" in refused.value.problem:
            assert message in str(refused.value)


def test_a_file_at_the_limit_is_read_and_one_above_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for size in (0, 1, LIMIT):
        path.write_bytes(b"x" * size)
        assert read_small(path, LIMIT) == b"x" * size
    path.write_bytes(b"x" * (LIMIT + 1))
    with pytest.raises(UnreadableFile, match=f"is larger than {LIMIT} bytes"):
        read_small(path, LIMIT)


def test_a_file_that_grows_while_it_is_read_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real, read = tmp_path / "file", os.read, [0]
    path.write_bytes(b"x")

    def grows(descriptor: int, count: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"x" * count)
        part = real(descriptor, count)
        read[0] += len(part)
        return part

    monkeypatch.setattr("os.read", grows)
    with pytest.raises(UnreadableFile, match="is larger than"):
        read_small(path, LIMIT)
    assert read[0] == LIMIT + 1


def test_a_file_of_proc_without_a_size_is_read() -> None:
    assert b"NonVoluntary".lower() in read_small(Path("/proc/self/status"), 1 << 16).lower()


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_name_that_no_file_can_have_is_an_error_in_words(name: str) -> None:
    with pytest.raises(UnreadableFile, match="cannot be read"):
        read_small(Path(name), LIMIT)


def test_text_is_utf8(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("é".encode())
    assert read_small_text(path, LIMIT) == "é"
    path.write_bytes(b"s3cret\xff")
    with pytest.raises(UnreadableFile, match="it is not text") as refused:
        read_small_text(path, LIMIT)
    assert "s3cret" not in str(refused.value)


def test_a_key_that_is_swapped_for_a_fifo_again_and_again_never_blocks(tmp_path: Path) -> None:
    path, ended = tmp_path / "main", threading.Event()
    path.write_text("key\n")

    def swap() -> None:
        while not ended.is_set():
            os.mkfifo(tmp_path / ".fifo")
            (tmp_path / ".fifo").replace(path)
            (tmp_path / ".file").write_text("key\n")
            (tmp_path / ".file").replace(path)

    swapping = threading.Thread(target=swap)
    swapping.start()
    keys, came = AccountsDirectory(tmp_path), {"key": 0, "refused": 0}
    refusals: set[str] = set()
    try:
        until = time.monotonic() + 60
        while min(came.values()) < 20 and time.monotonic() < until:
            keys.scan()
            try:
                assert keys.key("main") == "key"
                came["key"] += 1
            except ConfigurationError as error:
                refusals.add(error.problem)
                came["refused"] += 1
    finally:
        ended.set()
        swapping.join()
    assert min(came.values()) >= 20
    assert refusals == {"cannot be read (it is a FIFO)"}


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (0o600, None),
        (0o400, None),
        (0o440, None),
        (0o640, None),
        (0o644, "can be read by others (mode 0644)"),
        (0o604, "can be read by others"),
        (0o660, "can be written by others"),
        (0o602, "can be written by others"),
        (0o666, "can be read and written by others"),
    ],
)
def test_others_may_not_read_or_write_a_secret(mode: int, message: str | None, tmp_path: Path) -> None:
    path = tmp_path / "main"
    path.write_text("key")
    path.chmod(mode)
    found = exposure_of(path)
    assert (found is None) if message is None else (found is not None and found.startswith(message))
    faults = AccountsDirectory(tmp_path).exposed()
    assert [fault.problem for fault in faults] == ([] if found is None else [found])


def test_authorities_stand_among_text_in_any_encoding(tmp_path: Path) -> None:
    system = ssl.get_default_verify_paths().cafile
    if system is None or not Path(system).exists():
        pytest.skip("this machine has no bundle of authorities")
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(b"# n\xe9 \xff\n" + Path(system).read_bytes())
    assert len(trusting(bundle).get_ca_certs()) == len(ssl.create_default_context(cafile=system).get_ca_certs()) > 0


@pytest.mark.parametrize(
    "content", [b"", b"nothing", b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----\n"]
)
def test_without_a_certificate_nobody_is_trusted_in_its_place(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match="holds no certificate"):
        trusting(path)
