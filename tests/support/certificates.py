"""A private certificate authority, made afresh, in the form that Python 3.13 asks for: that of RFC 5280."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.requirement import OPENSSL

_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; its own is `file`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.file = folder / "ca.pem"
        self._openssl(
            *("req", "-x509", *_NEW, "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"),
            *("-subj", "/CN=a private CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )

    def certificate(self, name: str, *, names: str = "IP:127.0.0.1", days: int = 2) -> Pair:
        """Return a certificate, for a server or a client; with fewer than 0 days it is out of date."""
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        extensions = (f"subjectAltName={names}", "basicConstraints=CA:FALSE", "authorityKeyIdentifier=keyid")
        (self.folder / "extensions").write_text("\n".join(extensions))
        self._openssl("req", "-new", *_NEW, "-keyout", pair.key.name, "-out", "request", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions")
        self._openssl("x509", "-req", "-in", "request", "-out", pair.certificate.name, "-days", str(days), *signed)
        return pair

    def _openssl(self, *arguments: str) -> None:
        OPENSSL.require()
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)
