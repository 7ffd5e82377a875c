"""Objects made of files that an operator renews while the gateway runs: certificates, their keys, headers.

Files are compared by content, so nothing depends on times or on how they are replaced: in place, by a rename, or by the
symbolic link that Kubernetes swaps for a Secret. The last object holds until the new files can be used.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar

from gateway.errors import ConfigurationError
from gateway.redaction import shown_path
from gateway.small_files import PEM_BYTES, UnreadableFile, read_small

_LOOK_INTERVAL_S: Final = 1.0
"""Seconds between two looks whether a file changed."""
_TRIES: Final = 5
"""Looks at files that change while they are read."""

_log = logging.getLogger("gateway")
_Made = TypeVar("_Made")


class Reloaded(Generic[_Made]):
    """What is made of some files, made again after they changed."""

    def __init__(
        self,
        what: str,
        files: Mapping[str, Path],
        make: Callable[[Mapping[str, bytes]], _Made],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read `files`, named by their settings, and make `what` of them; raises ConfigurationError."""
        self._what = what
        self._files = files
        self._make = make
        self._clock = clock
        self._last_error = ""
        self._digest, self._made = self._build()
        self._looked = clock()

    def now(self) -> _Made:
        """Return what the files made, as they were a second ago at the earliest."""
        if self._clock() - self._looked >= _LOOK_INTERVAL_S:
            self.look()
        return self._made

    def look(self) -> None:
        """Make it again if a file changed. Where that cannot be done, log an ERROR once and keep what there is."""
        self._looked = self._clock()
        try:
            if _digest(self._read()) != self._digest:
                self._digest, self._made = self._build()
                _log.info("%s: files reloaded", self._what)
            elif self._last_error:
                _log.info("%s: files are again the ones in use", self._what)
            self._last_error = ""
        except ConfigurationError as error:
            if str(error) != self._last_error:
                _log.error("%s: new files are invalid, keeping the previous ones: %s", self._what, error)
            self._last_error = str(error)

    def _build(self) -> tuple[bytes, _Made]:
        """Make it of files that are the same before and after: libraries read them by their names, one by one."""
        for _ in range(_TRIES):
            before = self._read()
            try:
                made = self._make(before)
            except ConfigurationError:
                if self._read() == before:
                    raise
                continue
            if self._read() == before:
                return _digest(before), made
        setting = next(iter(self._files))
        raise ConfigurationError(setting, "changes whenever it is read", "Replace the files in one step.")

    def _read(self) -> dict[str, bytes]:
        return {setting: read_file(setting, path) for setting, path in self._files.items()}


class LiveContext(ssl.SSLContext):
    """A TLS context that gives each new connection the certificates of that moment.

    It lets a fresh context do the work, instead of loading new files into one that is in use: authorities could only be
    added there, and a client whose authority was taken away could resume a session that it made before.
    """

    _source: Reloaded[ssl.SSLContext]

    def __new__(cls, purpose: int, _: Reloaded[ssl.SSLContext]) -> Self:
        """Make it for servers or for clients, as ssl.PROTOCOL_TLS_SERVER and ssl.PROTOCOL_TLS_CLIENT say."""
        return super().__new__(cls, purpose)

    def __init__(self, _: int, source: Reloaded[ssl.SSLContext]) -> None:
        """Take contexts from `source`."""
        self._source = source

    def look(self) -> None:
        """Look at the files now; see `Reloaded.look`."""
        self._source.look()

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:  # noqa: ANN401 - the library's
        """Begin TLS between two buffers, as event loops do."""
        return self._source.now().wrap_bio(*arguments, **options)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:  # noqa: ANN401 - the library's
        """Begin TLS on a socket."""
        return self._source.now().wrap_socket(*arguments, **options)


def read_file(setting: str, path: Path) -> bytes:
    """Return the content of a small regular file, without waiting for any other; raises ConfigurationError."""
    try:
        return read_small(path, PEM_BYTES)
    except UnreadableFile as error:
        raise ConfigurationError(setting, f"{shown_path(path)} {error.problem}", error.remedy) from None


def _digest(content: Mapping[str, bytes]) -> bytes:
    """Return a digest that distinguishes contents: the files may hold secrets, which need not stay in memory."""
    parts = (hashlib.sha256(content[setting]).digest() for setting in sorted(content))
    return hashlib.sha256(b"".join(parts)).digest()
