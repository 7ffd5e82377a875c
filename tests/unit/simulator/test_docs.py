"""docs/reference/simulator.md names everything that the simulator can do wrong."""

import itertools
import json
import re
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import aiohttp
import pytest

from gateway.simulator import Faults, Form, Simulator
from gateway.simulator.admin import application
from gateway.simulator.server import Ending

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "simulator.md"
Run = Callable[..., Awaitable[Simulator]]


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text("utf-8")


@pytest.mark.parametrize("fault", [field.name for field in fields(Faults)])
def test_every_fault_has_a_row(page: str, fault: str) -> None:
    assert re.search(rf"^\| `{fault}` \|", page, re.MULTILINE)


def test_no_fault_has_a_row_that_is_none(page: str) -> None:
    section = page.partition("## Faults")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == {field.name for field in fields(Faults)}


async def test_every_route_is_there_and_no_other(page: str, run: Run) -> None:
    hub = await run()
    router = application(hub.hub, hub.server, hub.door).router
    routes = {
        f"{route.method} /simulator{route.resource.canonical}"
        for route in router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    assert set(re.findall(r"`((?:GET|PUT|POST|PATCH|DELETE) /simulator[^`]*)`", page)) == routes


def test_every_ending_and_every_form_is_named(page: str) -> None:
    assert [name for name in (*get_args(Ending), *Form) if f"`{name}`" not in page] == []


async def test_the_examples_work_as_they_stand(page: str, run: Run, session: aiohttp.ClientSession) -> None:
    hub = await run(prefill=3)
    examples = re.findall(r"^curl (.*)$", page, re.MULTILINE)
    assert len(examples) >= 3
    for example in examples:
        arguments = shlex.split(example.replace("$HUB", hub.url))
        options: dict[str, Any] = dict(itertools.pairwise(arguments))
        (url,) = [argument for argument in arguments if argument.startswith("http")]
        method = options.get("-X", "POST" if "-d" in options else "GET")
        async with session.request(method, url, data=options.get("-d")) as answer:
            assert answer.status == 200, f"{example}: {await answer.text()}"
            assert [json.loads(line) for line in (await answer.text()).splitlines()]
