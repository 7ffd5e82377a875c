"""`gateway health` says what /healthz says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from gateway.cli.main import main


@contextmanager
def answering(status: int) -> Iterator[str]:
    """Answer each GET with `status`; return the URL."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response({"/healthz": status, "/readyz": 200}.get(self.path, 404))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Answer) as url:
        yield url


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a thread; return the URL."""
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def health(url: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    """Run the command; give its exit code."""
    monkeypatch.setattr("sys.argv", ["gateway", "health", "--url", url, *options])
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # not for this machine
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_its_exit_code_is_the_answer(status: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(status) as url:
        assert health(url, monkeypatch) == code


@pytest.mark.parametrize(("url", "code"), [("http://127.0.0.1:9", 1), ("http://[", 1), ("nowhere", 2)])
def test_what_does_not_answer_is_one_line(
    url: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert health(url, monkeypatch) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert url in line


@pytest.mark.parametrize(
    ("status", "message"), [(503, "does not work"), (404, "monitoring.port"), (401, "monitoring.port")]
)
def test_only_a_gateway_s_own_refusal_says_that_it_does_not_work(
    status: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(status) as url:
        assert health(url, monkeypatch) == 1
    assert message in capsys.readouterr().err


def test_why_it_cannot_be_asked_is_said_without_a_library_s_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(200) as url:
        assert health(url.replace("http", "https"), monkeypatch) == 1
    assert "the port does not speak TLS" in capsys.readouterr().err
    assert health(url, monkeypatch) == 1
    assert capsys.readouterr().err == f"gateway: {url} does not answer that it works: Connection refused\n"


def test_it_asks_whether_the_gateway_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(503) as url:
        assert health(url, monkeypatch, "--ready") == 0
        assert health(url, monkeypatch) == 1


def test_a_redirect_is_no_health(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200) as other:

        class Redirect(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(302)
                self.send_header("Location", f"{other}/healthz")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with serving(Redirect) as url:
            assert health(url, monkeypatch) == 1


@pytest.mark.parametrize("option", ["--ca-file", "--cert-file", "--key-file"])
def test_files_for_tls_need_https(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert health("http://127.0.0.1:9", monkeypatch, option, "/etc/gateway/x.pem") == 2
