"""A listener's certificate is refused at the start, with its setting, where it cannot be used."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.control.listener.tls import listener_context
from gateway.errors import ConfigurationError
from gateway.settings.sections import ListenerTlsSettings
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


@pytest.mark.parametrize("words", WRONG)
def test_a_file_that_cannot_be_used_is_refused_with_its_setting(words: str, pair: Pair, authority: Authority) -> None:
    setting, file = WRONG[words](pair, authority)
    with pytest.raises(ConfigurationError) as refused:
        context(pair, **{setting: file})
    assert refused.value.setting == f"control.tls.{words.split(':', maxsplit=1)[0]}"
    assert str(refused.value).startswith(f"control.tls.{words.format(file or pair.certificate)}")
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
