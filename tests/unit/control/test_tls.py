"""A listener's files: refused at the start where they cannot be used, and renewed while callers connect."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.control.listener.tls import listener_context
from gateway.errors import ConfigurationError
from gateway.reloaded import LiveContext
from gateway.settings.sections import ListenerTlsSettings
from gateway.small_files import PEM_BYTES
from tests.support.certificates import Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.certificate("gateway")


def context(pair: Pair, **files: Path | None) -> ssl.SSLContext | None:
    given: dict[str, Path | None] = {"cert_file": pair.certificate, "key_file": pair.key, **files}
    return listener_context("control", ListenerTlsSettings.model_validate(given))


def encrypted(pair: Pair) -> Path:
    file = pair.key.with_name("encrypted.key")
    command = ["openssl", "pkcs8", "-topk8", "-in", pair.key, "-out", file, "-passout", "pass:hunter2"]
    subprocess.run(command, check=True, capture_output=True)
    return file


def garbled(pair: Pair) -> Path:
    file = pair.certificate.with_name("garbled.pem")
    file.write_text("-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n")
    return file


WRONG: dict[str, Callable[[Pair, Authority], tuple[str, Path | None]]] = {
    "cert_file: {} cannot be read (No such": lambda pair, _: ("cert_file", pair.key.with_name("absent")),
    "key_file: {} cannot be read (No such": lambda pair, _: ("key_file", pair.key.with_name("absent")),
    "client_ca_file: {} cannot be read (No such": lambda pair, _: ("client_ca_file", pair.key.with_name("absent")),
    "cert_file: {} holds no certificate": lambda pair, _: ("cert_file", pair.key),
    "key_file: {} holds no key": lambda pair, _: ("key_file", pair.certificate),
    "key_file: the key in {} has a passphrase": lambda pair, _: ("key_file", encrypted(pair)),
    "key_file: the key in {} and the certificate in": lambda _, ca: ("key_file", ca.certificate("other").key),
    "key_file: {0} holds no key": lambda _, __: ("key_file", None),
    "client_ca_file: {} holds no certificate": lambda pair, _: ("client_ca_file", pair.key),
    "cert_file: is not set, and control.tls.key_file is": lambda _, __: ("cert_file", None),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_file_that_cannot_be_used_is_refused_with_its_setting(message: str, pair: Pair, authority: Authority) -> None:
    setting, file = WRONG[message](pair, authority)
    with pytest.raises(ConfigurationError) as refused:
        context(pair, **{setting: file})
    assert refused.value.setting == f"control.tls.{message.split(':', maxsplit=1)[0]}"
    assert str(refused.value).startswith(f"control.tls.{message.format(file or pair.certificate)}")
    assert refused.value.remedy


def test_a_certificate_that_is_none_is_refused_with_one_of_both_settings(pair: Pair) -> None:
    with pytest.raises(ConfigurationError, match=r"control\.tls\.key_file: .* are no pair \("):
        context(pair, cert_file=garbled(pair))


def test_a_client_ca_alone_is_refused(pair: Pair, authority: Authority) -> None:
    with pytest.raises(ConfigurationError) as refused:
        context(pair, cert_file=None, key_file=None, client_ca_file=authority.file)
    assert refused.value.setting == "control.tls.cert_file"


def test_nothing_set_is_no_tls(pair: Pair) -> None:
    assert context(pair, cert_file=None, key_file=None) is None


def test_certificate_and_key_may_be_one_file(pair: Pair) -> None:
    both = pair.key.with_name("both.pem")
    both.write_text(pair.certificate.read_text() + pair.key.read_text())
    assert context(pair, cert_file=both, key_file=None) is not None


# Renewal, while callers connect ---------------------------------------------------------------------------------------


def shown_to(caller: ssl.SSLContext, server: ssl.SSLContext, own: Pair | None = None) -> bytes:
    """Shake hands in memory; return the certificate that the caller was shown. Raises ssl.SSLError."""
    if own is not None:
        caller.load_cert_chain(own.certificate, own.key)
    to_server, to_caller = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(to_server, to_caller, server_side=True)
    mine = caller.wrap_bio(to_caller, to_server, server_hostname="127.0.0.1")
    waiting = [mine, theirs]
    while waiting:
        for one in list(waiting):
            try:
                one.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(one)
    return mine.getpeercert(binary_form=True) or b""


def der(pair: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())


@pytest.mark.parametrize("order", [("certificate", "key"), ("key", "certificate")])
def test_each_part_of_a_pair_written_in_place_leaves_a_whole_one(
    pair: Pair, authority: Authority, order: tuple[str, str]
) -> None:
    new, old = authority.certificate("new"), der(pair)
    server = context(pair)
    assert isinstance(server, LiveContext)
    caller = ssl.create_default_context(cafile=authority.file)
    for name in order:
        content = getattr(new, name).read_bytes()
        file = getattr(pair, name)
        for size in (0, 1, 40, len(content) // 2, len(content) - 2, len(content)):
            is_whole = name == order[1] and size >= len(content) - 2  # its last line feed is not needed
            file.write_bytes(content[:size])
            server.look()
            shown = shown_to(caller, server)
            assert shown in ({old, der(new)} if is_whole else {old}), (name, size)
    assert shown == der(new)


def deleted(file: Path) -> None:
    file.unlink()


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def grown(file: Path) -> None:
    with file.open("ab") as grows:
        grows.truncate(PEM_BYTES + 1)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("trick", [deleted, fifo, folder, endless, loop, grown, emptied])
@pytest.mark.parametrize("name", ["certificate", "key", "ca"])
def test_what_takes_a_file_s_place_keeps_nobody_out_and_lets_nobody_in(
    pair: Pair, authority: Authority, tmp_path: Path, trick: Callable[[Path], None], name: str
) -> None:
    """Callers are served with the files of before, and a stranger's certificate is refused as before."""
    known, stranger = authority.certificate("known"), Authority(tmp_path / "other").certificate("stranger")
    client_ca = tmp_path / "client-ca.pem"
    client_ca.write_bytes(authority.file.read_bytes())
    server = context(pair, client_ca_file=client_ca)
    assert isinstance(server, LiveContext)
    before = der(pair)
    trick({"certificate": pair.certificate, "key": pair.key, "ca": client_ca}[name])
    server.look()
    assert shown_to(ssl.create_default_context(cafile=authority.file), server, known) == before
    for own in (stranger, None):
        with pytest.raises(ssl.SSLError, match=r"unknown ca|peer did not return a certificate|verify failed"):
            shown_to(ssl.create_default_context(cafile=authority.file), server, own)


def test_a_pair_is_swapped_whole_by_the_link_of_a_secret(authority: Authority, tmp_path: Path) -> None:
    """As Kubernetes does: `tls.crt` → `..data/tls.crt`, and `..data` is renamed over."""
    old, new = authority.certificate("old"), authority.certificate("new")
    for version, pair in (("v1", old), ("v2", new)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "tls.crt").write_bytes(pair.certificate.read_bytes())
        (tmp_path / version / "tls.key").write_bytes(pair.key.read_bytes())
    (tmp_path / "..data").symlink_to("v1")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    server = context(Pair(tmp_path / "tls.crt", tmp_path / "tls.key"))
    assert isinstance(server, LiveContext)
    caller = ssl.create_default_context(cafile=authority.file)
    for version, pair in (("v1", old), ("v2", new), ("v1", old)):
        (tmp_path / "..next").symlink_to(version)
        (tmp_path / "..next").rename(tmp_path / "..data")
        server.look()
        assert shown_to(caller, server) == der(pair)
