"""`gateway health`: whether the gateway beside it works, for callers that can only run a command."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from gateway.addresses import is_loopback
from gateway.bootstrap import terminal
from gateway.certificates import PemFiles, client_context, why_not_connected
from gateway.cli.options import CertFileOption, KeyFileOption, command_app
from gateway.errors import ConfigurationError, GatewayError

_TIMEOUT_S: Final = 5.0


app = command_app()


@app.command()
def health(
    url: Annotated[str, typer.Option(help="Where the gateway's monitoring listener is.")] = "http://127.0.0.1:9090",
    ready: Annotated[
        bool, typer.Option("--ready", help="Report readiness, as /readyz says, instead of health.")
    ] = False,
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", help="PEM file of the CA that signed its certificate.")
    ] = None,
    cert_file: CertFileOption = None,
    key_file: KeyFileOption = None,
) -> None:
    """Report whether the gateway on this machine is healthy, as /healthz says: for Docker's HEALTHCHECK.

    A gateway with monitoring.tls is asked at https://127.0.0.1:9090. On this machine the certificate need not have that
    name, and without --ca-file it is not looked at: nothing secret is sent. Exit codes: 0 it does, 1 it does not or
    does not answer, 2 an option is wrong.
    """
    is_secure = url.startswith("https://")
    if not is_secure and not url.startswith("http://"):
        raise ConfigurationError("--url", f"{url} is no URL", "Write it as http://127.0.0.1:9090.")
    names = ("cert-file", "key-file", "ca-file")
    files = PemFiles("--", cert_file, key_file, ca_file, names=names)
    if files.files and not is_secure:
        given = ", ".join(files.files)
        raise ConfigurationError("--url", f"is plain http, and {given} is for TLS", "Write https://127.0.0.1:9090.")
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirect()]
    if is_secure:
        handlers.append(urllib.request.HTTPSHandler(context=_context(url, files)))
    direct = urllib.request.build_opener(*handlers)
    try:
        with direct.open(f"{url.rstrip('/')}/{'readyz' if ready else 'healthz'}", timeout=_TIMEOUT_S):
            terminal.print_line("ok")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
            problem = "is not ready" if ready else "does not work"
            raise GatewayError(f"{url} answers {error.code}: the gateway {problem}") from error
        where = "that is where monitoring.port has it, 9090 by default"
        raise GatewayError(f"{url} answers {error.code}, as no gateway's monitoring listener does: {where}") from error
    except http.client.HTTPException as error:  # its words are what came, and may be anything
        raise GatewayError(f"{url} does not answer that it works: what listens there does not speak HTTP") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        problem = why_not_connected(reason) if isinstance(reason, OSError) else str(reason)
        raise GatewayError(f"{url} does not answer that it works: {problem}") from error


def _context(url: str, files: PemFiles) -> ssl.SSLContext:
    context = client_context(files)
    if _is_here(url):
        context.check_hostname = False
        if files.ca_file is None:
            context.verify_mode = ssl.CERT_NONE
    return context


def _is_here(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for the answer: a gateway sends none, and another's health is no sign of it."""

    def redirect_request(self, *_: Any) -> None:  # noqa: ANN401 - the library's
        """Follow none."""
