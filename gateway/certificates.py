"""TLS contexts from PEM files, with the setting and the remedy in the error for each that cannot be used."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from gateway.errors import ConfigurationError
from gateway.pem import load_pair, trusting
from gateway.redaction import shown_path
from gateway.reloaded import LiveContext, Reloaded, read_file
from gateway.small_files import UnreadableFile

_NO_TLS: Final = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
"""What OpenSSL calls an answer that is no TLS."""


def is_answer_without_tls(error: ssl.SSLError) -> bool:
    """Return whether OpenSSL failed over an answer that is no TLS, as of a port that speaks plain HTTP."""
    return error.reason in _NO_TLS


def why_not_connected(error: OSError) -> str:
    """Say why there is no connection; what OpenSSL says of an answer that is no TLS leads nobody to the cause."""
    if isinstance(error, ssl.SSLError) and is_answer_without_tls(error):
        return f"the port does not speak TLS ({error.reason}); write http:// where it is meant to be without"
    if error.errno is not None and (error.strerror or "").startswith("Connect call failed"):  # asyncio's own words
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__


@dataclass(frozen=True, slots=True)
class PemFiles:
    """A certificate with its key, and the authorities that vouch for the peer; each with the name of its setting."""

    section: str
    """What the names of the settings begin with: `control.tls.`, or `--`."""
    cert_file: Path | None = None
    key_file: Path | None = None
    """Not needed where `cert_file` holds the key, too."""
    ca_file: Path | None = None
    names: tuple[str, str, str] = ("cert_file", "key_file", "ca_file")

    @property
    def files(self) -> dict[str, Path]:
        """The files that are named, by their settings."""
        paths = (self.cert_file, self.key_file, self.ca_file)
        named = zip(self.names, paths, strict=True)
        return {f"{self.section}{name}": path for name, path in named if path is not None}

    def load_pair(self, context: ssl.SSLContext, content: Mapping[str, bytes]) -> None:
        """Load certificate and key, if they are named, with this `content`; raises ConfigurationError."""
        cert_setting, key_setting = (self.section + name for name in self.names[:2])
        if self.cert_file is None:
            if self.key_file is not None:
                raise ConfigurationError(cert_setting, f"is not set, and {key_setting} is", "Set both or neither.")
            return
        if b"BEGIN CERTIFICATE" not in content[cert_setting]:
            problem = f"{shown_path(self.cert_file)} holds no certificate"
            raise ConfigurationError(cert_setting, problem, "Name a PEM file with the certificate and its chain.")
        if self.key_file is None:
            key_setting_used, key_path = cert_setting, self.cert_file
        else:
            key_setting_used, key_path = key_setting, self.key_file
        if b"PRIVATE KEY" not in content[key_setting_used]:
            problem = f"{shown_path(key_path)} holds no key"
            raise ConfigurationError(key_setting, problem, "Name a PEM file with the certificate's key.")

        def ask() -> NoReturn:  # else OpenSSL asks on the terminal, and waits
            problem, remedy = f"the key in {shown_path(key_path)} has a passphrase", "Write the key without one."
            raise ConfigurationError(key_setting_used, problem, remedy)

        try:
            certificate, key = (self.cert_file, content[cert_setting]), (key_path, content[key_setting_used])
            load_pair(context, certificate, key, password=ask)
        except (OSError, ssl.SSLError) as error:
            problem = (
                f"the key in {shown_path(key_path)} and the certificate in {shown_path(self.cert_file)} are no pair "
                f"({_reason(error)})"
            )
            raise ConfigurationError(key_setting_used, problem, "Name the two that were made together.") from None

    def context(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        """Return a context that believes the authorities, the system's where none are named.

        Raises ConfigurationError where the file holds none.
        """
        try:
            return trusting(self.ca_file, purpose)
        except UnreadableFile as error:
            problem = f"{shown_path(self.ca_file or Path())} {error.problem}"
            remedy = "Name a PEM file with the certificate of the authority."
            raise ConfigurationError(self.section + self.names[2], problem, remedy) from None


def client_context(files: PemFiles) -> ssl.SSLContext:
    """Return a context that verifies servers by `ca_file`, or else by the system's authorities.

    Raises ConfigurationError.
    """
    content = {setting: read_file(setting, path) for setting, path in files.files.items()}
    context = files.context(ssl.Purpose.SERVER_AUTH)
    files.load_pair(context, content)
    return context


def live_client_context(files: PemFiles) -> ssl.SSLContext:
    """Return such a context whose files are read again when they change."""
    source = Reloaded(files.section.rstrip("."), files.files, lambda _: client_context(files))
    return LiveContext(ssl.PROTOCOL_TLS_CLIENT, source)


def _reason(error: OSError) -> str:
    """Return what OpenSSL means, never with a piece of a file."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "OpenSSL does not take it").replace("_", " ").lower()
    return error.strerror or type(error).__name__
