"""How the gateway authenticates to a broker: its identity, and TLS, from files that are read for each connection.

So a renewed secret is used from the next connection on. A spoiled one is logged, with its setting and its path, until
it is fixed. Nothing that is kept or logged here is a secret.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import nkeys

from gateway.errors import ConfigurationError
from gateway.pem import load_pair, trusting
from gateway.redaction import shown_path
from gateway.small_files import PEM_BYTES, SECRET_BYTES, UnreadableFile, read_small

PASSWORD_FILE: Final = "broker.sasl.password_file"  # noqa: S105 - the setting's name
CREDENTIALS_FILE: Final = "broker.credentials_file"
CA_FILE: Final = "broker.tls.ca_file"
CERT_FILE: Final = "broker.tls.cert_file"
KEY_FILE: Final = "broker.tls.key_file"

_JWT: Final = re.compile(r"-----BEGIN NATS USER JWT-----\s+(\S+)\s+-+END NATS USER JWT-+")
_SEED: Final = re.compile(r"-----BEGIN USER NKEY SEED-----\s+(\S+)\s+-+END USER NKEY SEED-+")
_LONE_SEED: Final = re.compile(r"\s*(SU[A-Z2-7]{56})\s*")
"""What `nk -gen user` writes: a user's seed and nothing else."""


@dataclass(frozen=True, slots=True)
class BrokerLogin:
    """The files and names that let the gateway in, as in `gateway.settings.BrokerSettings`."""

    user: str | None = None
    """Goes with a password file."""
    password_file: Path | None = None
    credentials_file: Path | None = None
    """A `.creds` file with a JWT and an nkey seed, or a user's nkey seed alone."""
    tls_wanted: bool = False
    """Refuse a connection without TLS also where no file is named."""
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    """Not needed where `cert_file` holds the key, too."""
    handshake_first: bool = False
    """TLS before the server's first message; with False the server first asks for TLS, in plain text."""

    @property
    def wants_tls(self) -> bool:
        """Whether a connection without TLS is to be refused."""
        files = (self.ca_file, self.cert_file, self.key_file)
        return self.tls_wanted or self.handshake_first or any(file is not None for file in files)

    def check(self) -> None:
        """Refuse settings that do not go together; raises ConfigurationError."""
        if self.user is not None and self.password_file is None:
            raise ConfigurationError(PASSWORD_FILE, "is not set, and broker.sasl.username is", "Set both or neither.")
        if self.password_file is not None and self.user is None:
            raise ConfigurationError("broker.sasl.username", f"is not set, and {PASSWORD_FILE} is", "Set both.")
        if self.user is not None and self.credentials_file is not None:
            remedy = "Take one of the two away."
            raise ConfigurationError(CREDENTIALS_FILE, "is set, and so is broker.sasl.username", remedy)
        if self.key_file is not None and self.cert_file is None:
            raise ConfigurationError(CERT_FILE, f"is not set, and {KEY_FILE} is", "Set both or neither.")

    def tls(self) -> ssl.SSLContext:
        """Return the context of a new connection; the system's authorities vouch where `ca_file` is not set.

        Raises ConfigurationError for a file that cannot be used.
        """
        try:
            context = trusting(self.ca_file)
        except UnreadableFile as error:
            raise ConfigurationError(CA_FILE, f"{self.ca_file} {error.problem}", error.remedy) from error
        if self.cert_file is not None:
            self._load_pair(context, self.cert_file, self.key_file)
        return context

    def _load_pair(self, context: ssl.SSLContext, cert_file: Path, key_file: Path | None) -> None:
        key_setting, key_path = (CERT_FILE, cert_file) if key_file is None else (KEY_FILE, key_file)

        def ask() -> NoReturn:  # else OpenSSL asks on the terminal, and waits
            remedy = "Write the key without a passphrase, readable by the gateway alone."
            raise ConfigurationError(key_setting, f"the key in {key_path} has a passphrase", remedy)

        certificate, key = _read(CERT_FILE, cert_file, PEM_BYTES), _read(key_setting, key_path, PEM_BYTES)
        if b"BEGIN CERTIFICATE" not in certificate:
            remedy = "Name a PEM file with the client's certificate."
            raise ConfigurationError(CERT_FILE, f"{cert_file} holds no certificate", remedy)
        if b"PRIVATE KEY" not in key:
            remedy = f"Name a PEM file with the key of the certificate in {cert_file}."
            raise ConfigurationError(KEY_FILE, f"{key_path} holds no key", remedy)
        try:
            load_pair(context, (cert_file, certificate), (key_path, key), ask)
        except (OSError, ssl.SSLError) as error:
            problem = f"the key in {key_path} and the certificate in {cert_file} are no pair ({_reason(error)})"
            raise ConfigurationError(key_setting, problem, "Name the two that were made together.") from error

    def login(self, guard: Callable[[], None]) -> dict[str, Any]:
        """Return what `nats.aio.client.Client.connect` needs for the login.

        `guard` is called before a password or a signature is sent, and raises where the way is not safe. Raises
        ConfigurationError for a file that cannot be used.
        """
        if self.password_file is not None:
            password = read_password(self.password_file)

            def guarded_password() -> str:
                guard()
                return password

            return {"user": self.user, "password": guarded_password}
        if self.credentials_file is None:
            return {}
        credentials = read_credentials(self.credentials_file)
        if credentials.jwt is None:
            return {"nkeys_seed_str": credentials.seed}

        def sign(nonce: str) -> bytes:
            guard()
            return base64.b64encode(nkeys.from_seed(bytearray(credentials.seed.encode())).sign(nonce.encode()))

        jwt = credentials.jwt.encode()
        return {"user_jwt_cb": lambda: jwt, "signature_cb": sign}


@dataclass(frozen=True, slots=True)
class NatsCredentials:
    """What a credentials file holds."""

    jwt: str | None
    """None where the file is a seed alone."""
    seed: str
    expires: datetime | None
    """When the JWT does; None for never."""

    def __repr__(self) -> str:
        """Keep the secret."""
        return "Credentials(…)"


def read_credentials(file: Path) -> NatsCredentials:
    """Read a `.creds` file, or a user's nkey seed; raises ConfigurationError where it is neither.

    The form is that of nsc: https://docs.nats.io/using-nats/developer/connecting/creds.
    """
    content = _read_text(CREDENTIALS_FILE, file)
    lone = _LONE_SEED.fullmatch(content)
    jwt, seed = _JWT.search(content), lone or _SEED.search(content)
    if seed is None or (jwt is None and lone is None):
        remedy = "Name a .creds file as nsc makes it, or one with a user's nkey seed alone (SU…)."
        raise ConfigurationError(CREDENTIALS_FILE, f"{file} has no user JWT and nkey seed", remedy)
    public = _public_key(file, seed[1])
    if jwt is None:
        return NatsCredentials(None, seed[1], None)
    claims = _claims(file, jwt[1])
    if claims.get("sub") != public:
        problem = f"the seed in {file} is not that of the user in its JWT"
        raise ConfigurationError(CREDENTIALS_FILE, problem, "Let nsc write the file anew.")
    expires = claims.get("exp")
    return NatsCredentials(jwt[1], seed[1], datetime.fromtimestamp(int(expires), UTC) if expires else None)


def _public_key(file: Path, seed: str) -> str:
    try:
        if not seed.startswith("SU"):
            raise nkeys.ErrInvalidPrefixByte  # an account's or an operator's: nkeys takes it
        return bytes(nkeys.from_seed(bytearray(seed.encode())).public_key).decode()
    except (nkeys.NkeysError, ValueError):
        remedy = "Let nsc write the file anew."
        raise ConfigurationError(CREDENTIALS_FILE, f"the seed in {file} is not a user's", remedy) from None


def _claims(file: Path, jwt: str) -> dict[str, Any]:
    try:
        _, body, _ = jwt.split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        datetime.fromtimestamp(int(claims.get("exp") or 0), UTC)
    except (ValueError, TypeError, AttributeError, OverflowError, OSError):  # the last two: a time that is none
        remedy = "Let nsc write the file anew."
        raise ConfigurationError(CREDENTIALS_FILE, f"the JWT in {file} cannot be read", remedy) from None
    return dict(claims)


def read_password(file: Path) -> str:
    """Read a password, without the line end that editors leave; raises ConfigurationError."""
    password = _read_text(PASSWORD_FILE, file).removesuffix("\n").removesuffix("\r")
    if not password:
        raise ConfigurationError(PASSWORD_FILE, f"{file} is empty", "Write the password into it.")
    return password


def _read(setting: str, file: Path, limit: int = SECRET_BYTES) -> bytes:
    try:
        return read_small(file, limit)
    except UnreadableFile as error:
        raise ConfigurationError(setting, f"{shown_path(file)} {error.problem}", error.remedy) from None


def _read_text(setting: str, file: Path) -> str:
    try:
        return _read(setting, file).decode()
    except UnicodeDecodeError:
        remedy = "Name a file that the gateway may read."
        raise ConfigurationError(setting, f"{shown_path(file)} cannot be read (it is not text)", remedy) from None


def _reason(error: OSError) -> str:
    """Return what went wrong, never with a piece of the file."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "OpenSSL does not take them").replace("_", " ").lower()
    return error.strerror or type(error).__name__
