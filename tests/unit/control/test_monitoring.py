"""Probes and metrics, and the document that describes the API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.control.app import openapi_text
from gateway.control.listener.server import serving
from gateway.control.listener.sockets import bind, url_of
from gateway.control.probes import ProbesApp
from gateway.control.problems import ProblemType

DOCUMENT = json.loads(openapi_text())
OPERATIONS = [
    pytest.param(operation, id=f"{method} {path}")
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]


async def test_probes_and_the_metrics_in_the_form_that_is_asked_for() -> None:
    is_alive, is_ready, is_stuck = True, False, False
    listener = bind("monitoring", "127.0.0.1", 0)

    async def scraped(accept: str) -> tuple[str, bytes]:
        if is_stuck:
            raise TimeoutError
        return "text/plain; version=0.0.4", f"what is told as {accept}\n".encode()

    async def alive() -> bool:
        return is_alive

    async def ready() -> bool:
        return is_ready

    app = ProbesApp(alive, ready, scraped)
    async with aiohttp.ClientSession(headers={"Accept": "text/plain"}) as http, serving(app, listener):

        async def ask(path: str, method: str = "GET") -> tuple[int, str]:
            async with http.request(method, url_of(listener) + path) as answer:
                assert answer.headers["Connection"] == "close"
                return answer.status, await answer.text()

        assert (await ask("/healthz"))[0] == 200
        assert (await ask("/readyz"))[0] == 503
        is_ready = True
        assert (await ask("/readyz"))[0] == 200
        assert await ask("/readyz", "HEAD") == (200, "")
        assert (await ask("/v1/accounts"))[0] == 404
        assert (await ask("/metrics", "POST"))[0] == 405
        assert await ask("/metrics") == (200, "what is told as text/plain\n")
        is_alive, is_stuck = False, True
        assert [(await ask(path))[0] for path in ("/healthz", "/readyz", "/metrics")] == [503, 503, 503]


def test_the_document_is_openapi_3_1_and_the_one_that_is_published() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert (Path(__file__).parents[3] / "schemas/openapi.json").read_text("utf-8") == openapi_text()
    assert len({operation.values[0]["operationId"] for operation in OPERATIONS}) == len(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_examples_and_says_its_problems(operation: dict[str, Any]) -> None:
    good = operation["responses"].get("200") or operation["responses"]["202"]
    (content,) = good["content"].values()
    assert content["example"]
    if "requestBody" in operation:
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert DOCUMENT["components"]["schemas"][reference]["example"]
    for parameter in operation.get("parameters", []):
        assert parameter["description"]
        assert parameter["schema"].get("examples") or "default" in parameter["schema"] or parameter["name"] == "cursor"
    for status, response in operation["responses"].items():
        assert response["description"]
        if int(status) >= 400:
            assert list(response["content"]) == ["application/problem+json"]
            assert response["content"]["application/problem+json"]["schema"]["$ref"].endswith("/Problem")
    assert {"401", "413", "500", "503"} <= operation["responses"].keys()
    assert "Retry-After" in operation["responses"]["503"]["headers"]


TYPES = [
    "broker-unavailable",
    "busy",
    "forbidden",
    "has-replays",
    "idempotency-key-reused",
    "internal",
    "invalid",
    "malformed",
    "method-not-allowed",
    "not-found",
    "not-paused",
    "not-ready",
    "origin-not-allowed",
    "outcome-unknown",
    "paused",
    "precondition-failed",
    "precondition-required",
    "replay-finished",
    "reset-in-progress",
    "timed-out",
    "too-large",
    "too-many-concurrent-updates",
    "too-many-replays",
    "too-slow",
    "unauthenticated",
    "unknown-account",
    "unknown-kind",
    "unknown-replay",
    "unsupported-media-type",
    "written-by-newer-version",
]


def test_types_of_problems_stay_the_same() -> None:
    assert sorted(kind.type for kind in ProblemType) == [f"urn:mesolive:gateway:problem:{name}" for name in TYPES]


def test_every_problem_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs/operate/control.md").read_text("utf-8")
    assert [kind for kind in ProblemType if f"`{kind.value[0]}`" not in page or f"| {kind.status} |" not in page] == []
