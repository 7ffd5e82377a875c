"""TLS on the listeners of real gateways: who is let in, what is logged, and certificates that change meanwhile."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import yaml

from tests.support.certificates import Authority, Pair
from tests.support.control_client import Control, control_of, new_token
from tests.support.gateway_process import GATEWAY, House, house, process, until


@dataclass
class Secured:
    """A gateway whose two listeners speak TLS, with files below `folder`."""

    here: House
    control: Control
    folder: Path
    authority: Authority
    tokens: Mapping[str, str]

    @property
    def urls(self) -> tuple[str, str]:
        """Both listeners."""
        return self.control.url, self.control.monitoring

    def errors(self) -> list[str]:
        """What it logged as an error."""
        return [str(line["event"]) for line in self.control.running.lines() if line["level"] == "error"]

    async def command(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command; give its exit code, and all that it wrote."""
        name = f"command-{self.here.runs}"
        self.here.runs += 1
        async with process(self.folder, GATEWAY, *arguments, name=name, env=env) as running:
            return await running.ended(), running.stdout + running.stderr


def put(pair: Pair, folder: Path, *, only: str = "both") -> None:
    """Write a pair where the gateway looks for it, each file in one step."""
    for name, file in (("tls.crt", pair.certificate), ("tls.key", pair.key)):
        if only in {"both", name}:
            shutil.copy(file, folder / "new")
            (folder / "new").rename(folder / name)


@asynccontextmanager
async def secured(
    folder: Path, *, clients: Authority | None = None, proxies: Sequence[str] = ()
) -> AsyncIterator[Secured]:
    """Run a gateway with TLS on both listeners, and two tokens; `clients` is who signs certificates of clients."""
    authority, files = Authority(folder / "ca"), folder / "tls"
    files.mkdir()
    put(authority.certificate("gateway", names="IP:127.0.0.1,DNS:localhost"), files)
    tokens, lines = {}, []
    for name, role in (("alice", "operator"), ("victor", "viewer")):
        tokens[name], line = await new_token(folder, name, role)
        lines.append(line)
    (folder / "tokens").write_text("\n".join(lines))
    tls = {"cert_file": str(files / "tls.crt"), "key_file": str(files / "tls.key")}
    if clients is not None:
        shutil.copy(clients.file, files / "clients.crt")
        tls["client_ca_file"] = str(files / "clients.crt")
    async with house(folder, accounts=1) as here:
        settings = yaml.safe_load(here.config.read_text())
        settings["control"] = {"tls": tls, "tokens_file": str(folder / "tokens"), "host": "127.0.0.1"}
        settings["control"]["trusted_proxies"] = list(proxies)
        settings["monitoring"] = {"tls": dict(tls), "host": "127.0.0.1"}  # a dict of its own: YAML would write an alias
        here.config.write_text(yaml.safe_dump(settings))
        control = await control_of(await here.gateway(), here.http, tokens["alice"])
        found = Secured(here, control, files, authority, tokens)
        mine = None if clients is None else clients.certificate("first")
        for url, path in zip(found.urls, ("/openapi.json", "/readyz"), strict=True):
            await until(lambda url=url, path=path: answers(url + path, authority, mine), f"{url}{path} answers")
        yield found


def client(authority: Authority | None, mine: Pair | None = None, **bounds: ssl.TLSVersion) -> ssl.SSLContext:
    """Make a client's context, which believes the authority, or anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = authority is not None
    if authority is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(authority.file)
    if mine is not None:
        context.load_cert_chain(mine.certificate, mine.key)
    for name, value in bounds.items():
        setattr(context, name, value)
    return context


async def status(url: str, context: ssl.SSLContext, headers: Mapping[str, str] | None = None) -> int:
    """Ask on a new connection."""
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as http, http.get(url, headers=headers) as answer:
        await answer.read()
        return answer.status


async def answers(url: str, authority: Authority | None, mine: Pair | None = None) -> bool:
    """Return whether a new connection is let in, and gets an answer, if only that a token is missing."""
    with suppress(aiohttp.ClientError, OSError):
        return await status(url, client(authority, mine)) in {200, 401}
    return False


async def certificate(url: str, **bounds: ssl.TLSVersion) -> bytes:
    """Return the certificate that a listener shows."""
    place = urlsplit(url)
    _, writer = await asyncio.open_connection(place.hostname, place.port, ssl=client(None, **bounds))
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return shown


def der(pair: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())


async def test_both_listeners_speak_tls_alone_and_their_urls_say_so(tmp_path: Path) -> None:
    async with secured(tmp_path) as there:
        authority, token = there.authority, {"Authorization": f"Bearer {there.tokens['alice']}"}
        for url, path in zip(there.urls, ("/v1/accounts", "/metrics"), strict=True):
            assert url.startswith("https://127.0.0.1:")
            assert await status(url + path, client(authority), token) == 200
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await status(url + path, ssl.create_default_context())
            with pytest.raises(aiohttp.ClientError):
                await status(url.replace("https:", "http:") + path, client(authority), token)
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                assert await certificate(url, minimum_version=version, maximum_version=version)
            with pytest.warns(DeprecationWarning, match="TLSv1"):
                old = client(None, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
            old.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.raises(aiohttp.ClientError, match="ALERT_PROTOCOL_VERSION"):  # so it was the server's word
                await status(url + path, old)
        assert await status(there.control.url + "/v1/accounts", client(authority)) == 401
        assert there.errors() == []


async def test_who_has_no_certificate_of_the_clients_authority_is_not_let_in(tmp_path: Path) -> None:
    clients, others = Authority(tmp_path / "clients"), Authority(tmp_path / "others")
    mine, theirs = clients.certificate("mine"), others.certificate("theirs")
    async with secured(tmp_path, clients=clients) as there:
        for url, path in zip(there.urls, ("/openapi.json", "/healthz"), strict=True):
            assert await answers(url + path, there.authority, mine)
            for wrong in (None, theirs):
                with pytest.raises((aiohttp.ClientError, OSError)):
                    await status(url + path, client(there.authority, wrong))


async def test_a_renewed_certificate_is_shown_next_and_half_a_pair_is_ignored(tmp_path: Path) -> None:
    async with secured(tmp_path) as there:
        second, third = (there.authority.certificate(name) for name in ("second", "third"))
        first = await certificate(there.control.url)

        async def shows(pair: Pair) -> bool:
            return [await certificate(url) for url in there.urls] == [der(pair)] * 2

        put(second, there.folder, only="tls.crt")
        wrong = "new files are invalid, keeping the previous ones"
        await until(lambda: sum(wrong in one for one in there.errors()) == 2, "both complain of half a pair")
        assert [await certificate(url) for url in there.urls] == [first] * 2
        await asyncio.sleep(2.5)  # two more looks, of which nothing is said
        assert [await certificate(url) for url in there.urls] == [first] * 2
        assert sum(wrong in one for one in there.errors()) == 2
        assert all("control.tls.key_file: " in one or "monitoring.tls.key_file: " in one for one in there.errors())
        put(second, there.folder, only="tls.key")
        await until(lambda: shows(second), "both show the second certificate")

        # As Kubernetes does: the files are links into a folder behind a link that is swapped.
        (there.folder / "generation-3").mkdir()
        put(third, there.folder / "generation-3")
        (there.folder / "..data").symlink_to("generation-3")
        for name in ("tls.crt", "tls.key"):
            (there.folder / "link").symlink_to(f"..data/{name}")
            (there.folder / "link").rename(there.folder / name)
        await until(lambda: shows(third), "both show the third certificate")
        (there.folder / "generation-4").mkdir()
        fourth = there.authority.certificate("fourth")
        put(fourth, there.folder / "generation-4")
        (there.folder / "..data-new").symlink_to("generation-4")
        (there.folder / "..data-new").rename(there.folder / "..data")
        await until(lambda: shows(fourth), "both show the fourth certificate")
        assert there.control.running.popen.poll() is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_clients_of_a_replaced_authority_stay_out_with_old_sessions_too(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    before, after = old.certificate("before"), new.certificate("after")
    async with secured(tmp_path, clients=old) as there:
        for url, path in zip(there.urls, ("/openapi.json", "/healthz"), strict=True):
            context = client(there.authority, before, minimum_version=version, maximum_version=version)
            session, code = await asyncio.to_thread(ask_in_session, context, url, path, None)
            assert code in {200, 401}
            shutil.copy(new.file, there.folder / "new")
            (there.folder / "new").rename(there.folder / "clients.crt")
            await until(lambda url=url, path=path: answers(url + path, there.authority, after), "the new one is let in")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(ask_in_session, context, url, path, session)
            assert not await answers(url + path, there.authority, before)
            shutil.copy(old.file, there.folder / "clients.crt")


def ask_in_session(
    context: ssl.SSLContext, url: str, path: str, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, int]:
    """Ask, with the TLS session of an earlier connection where there is one; return the session and the status."""
    place = urlsplit(url)
    with (
        socket.create_connection((place.hostname, place.port), timeout=10) as tcp,
        context.wrap_socket(tcp, server_hostname=place.hostname, session=session) as tls,
    ):
        tls.sendall(f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n".encode())
        answer = tls.recv(4096)
        if not answer:
            raise ConnectionResetError("it hung up")
        return tls.session, int(answer.split()[1])


async def test_strangers_who_never_shake_hands_keep_nobody_out(tmp_path: Path) -> None:
    async with secured(tmp_path) as there, AsyncExitStack() as stack:
        for url, path in zip(there.urls, ("/openapi.json", "/readyz"), strict=True):
            place = urlsplit(url)
            strangers = [
                stack.enter_context(socket.create_connection((place.hostname, place.port), timeout=30))
                for _ in range(300)
            ]
            assert await answers(url + path, there.authority)
            for stranger in strangers:  # each is hung up on, for the number of them or after ten seconds
                with suppress(ConnectionResetError):
                    assert await asyncio.to_thread(stranger.recv, 1) == b""


async def test_the_commands_reach_it_with_the_files_that_their_options_name(tmp_path: Path) -> None:
    clients = Authority(tmp_path / "clients")
    mine = clients.certificate("operator")
    token = tmp_path / "token"
    async with secured(tmp_path, clients=clients) as there:
        token.write_text(there.tokens["alice"])
        control, monitoring = there.urls
        trusting = ("--ca-file", there.authority.file)
        known = (*trusting, "--cert-file", mine.certificate, "--key-file", mine.key)
        with_token = ("--url", control, "--token-file", token)

        code, output = await there.command("accounts", *with_token, *known, "--json")
        assert code == 0, output
        assert json.loads(output)["account"] == "account-1"
        code, output = await there.command("replay", "list", *with_token, *known, "--json")
        assert (code, output) == (0, "")
        code, output = await there.command("accounts", *with_token)
        assert code == 2
        assert output.startswith(f"gateway: --ca-file: the certificate of {control} is refused: ")
        code, output = await there.command("accounts", *with_token, *trusting)
        assert code == 2
        assert output.startswith(f"gateway: --cert-file: {control} wants a client's certificate that it knows. ")
        code, output = await there.command("health", "--url", monitoring)
        assert code == 1
        for identity in (known, known[2:]):
            assert await there.command("health", "--url", monitoring, *identity) == (0, "ok\n")
        code, output = await there.command("health", "--url", monitoring, "--ca-file", clients.file, *known[2:])
        assert code == 1


@pytest.mark.parametrize(("proxies", "caller"), [(["127.0.0.0/8"], "203.0.113.5"), (["10.0.0.0/8"], "127.0.0.1")])
async def test_the_audit_names_the_caller_whom_a_trusted_proxy_forwards(
    tmp_path: Path, proxies: list[str], caller: str
) -> None:
    async with secured(tmp_path, proxies=proxies) as there:
        url = f"{there.control.url}/v1/accounts/account-1/reconnect"
        headers = {
            "Authorization": f"Bearer {there.tokens['alice']}",
            "X-Forwarded-For": "198.51.100.1, 203.0.113.5",
            "X-Forwarded-Host": "evil.example.com",
            "X-Forwarded-Proto": "http",
        }

        async def is_asked() -> bool:
            async with there.here.http.post(url, headers=headers, ssl=client(there.authority)) as answer:
                return answer.status in {200, 202}  # 404 until the control plane has heard of the account

        await until(is_asked, "the account is asked to reconnect")

        def audited() -> list[str]:
            return [line["address"] for line in there.control.running.lines() if "address" in line and "who" in line]

        await until(lambda: bool(audited()), "the change is a line in the log")
        assert audited() == [caller]
