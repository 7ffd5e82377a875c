"""Why an HTTP request had no answer, in words that lead to the cause: the library's name TLS where there is none."""

from __future__ import annotations

import aiohttp

from gateway.certificates import why_not_connected


def error_message(error: BaseException) -> str:
    """Say what went wrong, without the library's texts that quote a URL or an answer's headers."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"the certificate of {error.host}:{error.port} is refused: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port}: {why_not_connected(error.os_error)}"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"{error.status} {error.message}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection ended before the answer"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"{type(error).__name__}: the URL, a header or the answer is not what HTTP allows"
