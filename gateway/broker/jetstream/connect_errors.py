"""Why a connection to NATS failed: messages with the setting, the file and the remedy."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import nats.errors

from gateway.broker.credentials import (
    CA_FILE,
    CERT_FILE,
    CREDENTIALS_FILE,
    PASSWORD_FILE,
    BrokerLogin,
    read_credentials,
)
from gateway.broker.jetstream.link import PermissionDenied
from gateway.errors import ConfigurationError, Unavailable

_LOGIN_REFUSED: Final = (
    "authorization violation",
    "authentication expired",
    "authentication revoked",
    "requires authorization",
)
_WRONG_NAME: Final = frozenset({62, 63, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH, …_EMAIL_MISMATCH and …_IP_ADDRESS_MISMATCH of OpenSSL."""
_OUT_OF_DATE: Final = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID and …_HAS_EXPIRED."""


def explain(access: BrokerLogin, error: BaseException) -> ConfigurationError | Unavailable:
    """Return the error that an operator must fix, and Unavailable where it may pass by itself."""
    if isinstance(error, ConfigurationError):
        return error
    if isinstance(error, nats.errors.SecureConnWantedError):
        remedy = "Take broker.tls away, or let the server offer TLS."
        return ConfigurationError("broker.tls", "the server offers no TLS", remedy)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _server_refused(access, cause)
        if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
            return _client_refused(access, cause)
        if isinstance(cause, ssl.SSLError) and access.handshake_first:
            problem = f"is set, and the server does not begin with TLS ({(cause.reason or str(cause)).lower()})"
            return ConfigurationError("broker.tls.handshake_first", problem, "Take it away, or let the server do so.")
    message = str(error).lower()
    if isinstance(error, nats.errors.AuthorizationError) or any(refused in message for refused in _LOGIN_REFUSED):
        return _login_refused(access, str(error).removeprefix("nats: ").strip("'"))
    if isinstance(error, TimeoutError):
        hint = "; if the server does not begin with TLS, take broker.tls.handshake_first away"
        return Unavailable(f"it did not answer in time{hint if access.handshake_first else ''}")
    if "expecting info" in message and not access.handshake_first:
        return Unavailable("it hung up without a greeting; if it waits for TLS, set broker.tls.handshake_first")
    return Unavailable(str(error) or type(error).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes: a library may wrap OpenSSL's error."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _server_refused(access: BrokerLogin, error: ssl.SSLCertVerificationError) -> ConfigurationError:
    problem = f"the server's certificate is refused: {error.verify_message}"
    if error.verify_code in _WRONG_NAME:
        return ConfigurationError("broker.servers", problem, "Name the server as its certificate does.")
    if error.verify_code in _OUT_OF_DATE:
        return ConfigurationError("broker.servers", problem, "Renew it, or set this machine's clock.")
    by = "broker.tls.ca_file is not set" if access.ca_file is None else f"{access.ca_file} does not vouch for it"
    remedy = "Name a PEM file with the certificate of the authority that signed it."
    return ConfigurationError(CA_FILE, f"{problem}; {by}", remedy)


def _client_refused(access: BrokerLogin, error: ssl.SSLError) -> ConfigurationError:
    alert = (error.reason or "").partition("ALERT_")[2].replace("_", " ").lower()
    if access.cert_file is None:
        remedy = "Set it and broker.tls.key_file to a client's certificate and key."
        return ConfigurationError(CERT_FILE, f"is not set, and the server wants a certificate ({alert})", remedy)
    remedy = "Name a certificate that is in date, of an authority that the server trusts."
    return ConfigurationError(CERT_FILE, f"the server refuses {access.cert_file} ({alert})", remedy)


def _login_refused(access: BrokerLogin, message: str) -> ConfigurationError:
    refused = f"NATS refused the login ({message})"
    if access.password_file is not None:
        remedy = "Write the user's present password into the file, or mend broker.sasl.username."
        return ConfigurationError(
            PASSWORD_FILE, f"{refused} of {access.user} with the password in {access.password_file}", remedy
        )
    if access.credentials_file is not None:
        credentials = read_credentials(access.credentials_file)
        problem, remedy = f"{refused} with {access.credentials_file}", "Check that the server knows this user."
        if credentials.expires is not None and credentials.expires < datetime.now(UTC):
            problem += f", whose JWT expired at {credentials.expires.isoformat()}"
            remedy = "Let nsc write a new one."
        return ConfigurationError(CREDENTIALS_FILE, problem, remedy)
    remedy = f"Set broker.sasl.username and {PASSWORD_FILE}, or {CREDENTIALS_FILE}."
    return ConfigurationError("broker", f"{refused}, and no login is set", remedy)


@contextmanager
def permissions_needed() -> Iterator[None]:
    """Turn a refused permission into a ConfigurationError: at the start, only a person can fix it."""
    try:
        yield
    except PermissionDenied as denied:
        remedy = "Give the user the permissions that docs/operate/nats.md lists."
        raise ConfigurationError("broker", str(denied), remedy) from denied
