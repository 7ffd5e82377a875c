"""The one way in which small files are read: keys, tokens, passwords, certificates, settings.

A user with write access to a setting's path can put anything there, and swap it between two looks. So nothing but a
regular file is opened, no read waits for a writer (a FIFO, a socket, a terminal), and none goes on without an end (a
device, a file that grows, one of /proc that has no size). A file on a network that does not answer can still hold a
reader up.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from gateway.errors import GatewayError

_KINDS: Final = (
    (stat.S_ISDIR, "Is a directory"),
    (stat.S_ISFIFO, "it is a FIFO"),
    (stat.S_ISSOCK, "it is a socket"),
    (stat.S_ISCHR, "it is a device"),
    (stat.S_ISBLK, "it is a device"),
)
_REMEDY: Final = "Name a file that the gateway may read."
_PART: Final = 64 * 1024
_OPENED: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

SECRET_BYTES: Final = 64 * 1024
"""The most that a key, a password, a token, credentials or headers may have."""
PEM_BYTES: Final = 4 * 1024 * 1024
"""The most that a certificate, a key or a bundle of authorities may have: the world's authorities are 0.3 MB."""


class UnreadableFile(GatewayError):
    """A small file cannot be read."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        """`problem` goes on after the path and holds nothing of what was read."""
        super().__init__(f"{path} {problem}. {remedy}")
        self.path = path
        self.problem = problem
        self.remedy = remedy


def read_small(path: Path, limit: int) -> bytes:
    """Return the whole content of a regular file of at most `limit` bytes, without ever waiting for a writer.

    Raises UnreadableFile for everything else.
    """
    try:
        _check(path, path.stat(), limit)  # before it is opened: to open a device may do something
        descriptor = os.open(path, _OPENED)
        try:
            _check(path, os.fstat(descriptor), limit)
            return _read(path, descriptor, limit)
        finally:
            os.close(descriptor)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or type(error).__name__})"
        raise UnreadableFile(path, problem, _REMEDY) from error
    except ValueError as error:  # a NUL in its name
        raise UnreadableFile(path, "cannot be read (it is no file's name)", _REMEDY) from error


def read_small_text(path: Path, limit: int) -> str:
    """Return likewise what a file of UTF-8 holds; raises UnreadableFile."""
    try:
        return read_small(path, limit).decode()
    except UnicodeDecodeError:
        raise UnreadableFile(path, "cannot be read (it is not text)", _REMEDY) from None


def exposure_of(path: Path) -> str | None:
    """Return how others than its owner may use a file that holds secrets; None where they may not.

    That its group reads it is right: Kubernetes gives the files of a Secret to the pod's fsGroup (mode 0440).
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None  # the reader reports it
    doings = [
        *(["read"] if mode & stat.S_IROTH else []),
        *(["written"] if mode & (stat.S_IWGRP | stat.S_IWOTH) else []),
    ]
    if not doings:
        return None
    return f"can be {' and '.join(doings)} by others (mode {stat.S_IMODE(mode):04o})"


def _check(path: Path, found: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "it is no regular file")
        raise UnreadableFile(path, f"cannot be read ({kind})", _REMEDY)
    if found.st_size > limit:
        raise _too_large(path, limit)


def _read(path: Path, descriptor: int, limit: int) -> bytes:
    parts, left = [], limit + 1
    while left > 0 and (part := os.read(descriptor, min(left, _PART))):
        parts.append(part)
        left -= len(part)
    if left <= 0:
        raise _too_large(path, limit)
    return b"".join(parts)


def _too_large(path: Path, limit: int) -> UnreadableFile:
    return UnreadableFile(path, f"is larger than {limit} bytes", _REMEDY)
