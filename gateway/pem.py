"""Certificates and keys in PEM, read as all small files are: OpenSSL itself would wait for a FIFO, or read a device."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gateway.small_files import PEM_BYTES, UnreadableFile, read_small

_CERTIFICATE: Final = re.compile(rb"-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE)-----\s.*?-----END \1-----", re.DOTALL)


def trusting(ca_file: Path | None, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> ssl.SSLContext:
    """Return a context, by default a client's, that trusts the authorities of a PEM file, or else those of the system.

    Raises UnreadableFile where it holds no certificate.
    """
    if ca_file is None:
        return ssl.create_default_context(purpose)
    # Text between the certificates may be in any encoding; the certificates are ASCII.
    found = [
        match[0].decode("ascii", "backslashreplace") for match in _CERTIFICATE.finditer(read_small(ca_file, PEM_BYTES))
    ]
    try:
        if found:  # without any the system's would be trusted
            return ssl.create_default_context(purpose, cadata="\n".join(found))
    except (ssl.SSLError, ValueError) as error:
        raise _no_certificate(ca_file) from error
    raise _no_certificate(ca_file)


def _no_certificate(ca_file: Path) -> UnreadableFile:
    remedy = "Name a PEM file with the certificate of the authority that signed the server's."
    return UnreadableFile(ca_file, "holds no certificate", remedy)


def load_pair(
    context: ssl.SSLContext,
    certificate: tuple[Path, bytes],
    key: tuple[Path, bytes],
    password: Callable[[], str | bytes],
) -> None:
    """Load a certificate and its key, each a path and what was read there, into a context; raises ssl.SSLError.

    `password` is asked where the key has a passphrase.
    """
    with _readable(*certificate) as certificate_path, _readable(*key) as key_path:
        context.load_cert_chain(certificate_path, key_path, password=password)


@contextmanager
def _readable(path: Path, content: bytes) -> Iterator[str]:
    """Yield a path under which OpenSSL, which takes nothing else, finds this content, whatever is at `path` by now."""
    if not hasattr(os, "memfd_create"):  # not on Linux: there it stays possible to swap the file in between
        yield str(path)
        return
    with os.fdopen(os.memfd_create("pem", os.MFD_CLOEXEC), "r+b") as memory:
        memory.write(content)
        memory.flush()
        yield f"/proc/self/fd/{memory.fileno()}"
