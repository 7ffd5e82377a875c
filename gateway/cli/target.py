"""Which listener of a gateway a command calls, and what may be sent there.

A token is sent over TLS, or to this machine alone: a reader on the way could use it.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yarl

from gateway.addresses import is_loopback
from gateway.certificates import PemFiles, client_context, is_answer_without_tls
from gateway.errors import ConfigurationError, GatewayError
from gateway.redaction import shown_path
from gateway.settings.option_variables import TOKEN_VARIABLE
from gateway.small_files import SECRET_BYTES, UnreadableFile, read_small_text

URL: Final = "http://127.0.0.1:8080"


@dataclass(frozen=True, slots=True)
class Target:
    """A listener, and what to show it."""

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def check(self) -> str | None:
        """Return the token to send, or None; raises ConfigurationError for what is no URL or would show it in clear."""
        url, token = _parsed(self.url), self.token()
        if url.scheme == "https":
            return token
        if self._files.files:
            given = ", ".join(self._files.files)
            raise ConfigurationError(
                "--url", f"is plain http, and {given} is for TLS", "Write https://, or leave it out."
            )
        if token is not None and not is_loopback(url.host or ""):
            problem = f"{url.origin()} is plain http, and whoever reads the token on the way could use it"
            remedy = (
                "Write https:// (control.tls gives the gateway a certificate; --ca-file names its CA), or reach the "
                "gateway through a tunnel to 127.0.0.1, such as kubectl port-forward."
            )
            raise ConfigurationError("--url", problem, remedy)
        return token

    def token(self) -> str | None:
        """Return the token of the file, else of GATEWAY_TOKEN, or None; raises ConfigurationError for a bad one."""
        if self.token_file is None:
            found = os.environ.get(TOKEN_VARIABLE, "").strip()
            if found and not _is_token(found):
                raise ConfigurationError(TOKEN_VARIABLE, "it holds no token", "Set it to the token, alone.")
            return found or None
        try:
            found = read_small_text(self.token_file, SECRET_BYTES).strip()
        except UnreadableFile as error:
            problem = f"{shown_path(self.token_file)} {error.problem}"
            raise ConfigurationError("--token-file", problem, error.remedy) from None
        if not _is_token(found):
            remedy = "Write the token into it, alone."
            raise ConfigurationError("--token-file", f"{self.token_file} holds no token", remedy)
        return found

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS context, None where the system's authorities are enough; raises ConfigurationError."""
        return client_context(self._files) if self._files.files else None

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return is_loopback(_parsed(self.url).host or "")

    @property
    def _files(self) -> PemFiles:
        names = ("cert-file", "key-file", "ca-file")
        return PemFiles("--", self.cert_file, self.key_file, self.ca_file, names=names)


def no_url(url: str) -> ConfigurationError:
    """Return the error that `--url` is invalid; it is not shown where it may hold a password."""
    problem = "is no http or https URL" if "@" in url else f"{url} is no URL"
    return ConfigurationError("--url", problem, f"Write it as {URL}.")


def of_tls(url: str, error: Exception) -> GatewayError | None:
    """Return the error for a connection that TLS ended, or None where it was something else."""
    causes = (getattr(error, "certificate_error", None), getattr(error, "os_error", None), error.__cause__, error)
    cause = next((one for one in causes if isinstance(one, ssl.SSLError)), None)
    if isinstance(cause, ssl.SSLCertVerificationError):
        remedy = "Name by --ca-file the CA that signed it, and in --url a name that the certificate has."
        return ConfigurationError(
            "--ca-file", f"the certificate of {url} is refused: {cause.verify_message.rstrip('.')}", remedy
        )
    if cause is not None and is_answer_without_tls(cause):
        return ConfigurationError("--url", f"{url} does not speak TLS", "Write http:// where it is on this machine.")
    reason = "" if cause is None else cause.reason or ""
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        remedy = "Name by --cert-file and --key-file a certificate of the CA in its control.tls.client_ca_file."
        return ConfigurationError("--cert-file", f"{url} wants a client's certificate that it knows", remedy)
    return None


def _is_token(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def _parsed(text: str) -> yarl.URL:
    """Return the URL as the HTTP client will read it; raises ConfigurationError."""
    try:
        url = yarl.URL(text)
    except ValueError:
        raise no_url(text) from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise no_url(text)
    if url.user is not None or url.password is not None:
        remedy = "Name a file with a token by --token-file."
        raise ConfigurationError("--url", "must not hold a user or a password", remedy)
    return url
