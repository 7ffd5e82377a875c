"""A session recorded at a real ASP.NET Core hub, replayed: the simulator must give the same answers, byte for byte."""

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.simulator import CALLBACKS, PATH, Failure, Form, Simulator

KEY = "demo-key"
Run = Callable[..., Awaitable[Simulator]]
Connect = Callable[..., Awaitable[Any]]
RECORDED = Path(__file__).parent / "recorded"
RECORDED_FORMS = (Form.CAMEL_INT, Form.PASCAL_STRING)


def frames(form: Form) -> list[tuple[str, str]]:
    """Return the frames of the recording: `in` or `out`, and the text."""
    lines = [json.loads(line) for line in (RECORDED / f"{form}.jsonl").read_text().splitlines()]
    return [(way, line[way].rstrip("\x1e")) for line in lines for way in ("in", "out") if way in line]


def remember(hub: Simulator, form: Form) -> None:
    """Load the user the history that the recording shows."""
    for way, text in frames(form):
        if way == "in" and '"target"' in text:
            head, payload = re.fullmatch(r'{"type":1,"target":"(\w+)","arguments":\[(.*)\]}', text, re.DOTALL).groups()  # type: ignore[union-attr]
            history = hub.user("demo").history
            history.append(len(history) + 1, CALLBACKS.index(head), payload.encode(), 0.0)


def without_times(text: str) -> str:
    return re.sub(r'("[sS]napshotTime":)"[^"]+"', r'\1"…"', text)


@pytest.mark.parametrize("form", RECORDED_FORMS)
async def test_every_call_of_the_recorded_session_has_the_recorded_answer(
    form: Form, run: Run, connect: Connect
) -> None:
    hub = await run(form=form)
    client = await connect(hub)
    answers = {
        json.loads(text)["invocationId"]: text for way, text in frames(form) if '"type":3' in text and way == "in"
    }
    calls = [text for way, text in frames(form) if way == "out" and '"type":1' in text]
    assert len(calls) == len(answers) == 12

    for call in calls:
        number = json.loads(call)["invocationId"]
        if number == "3":
            remember(hub, form)
        if number == "8":
            failures = [Failure(hub_exception="the hub is unwell"), Failure(detail="try again")]
            hub.user("demo").failures.extend(failures)
        await client.send(call)
        answer = await client.record()
        assert answer is not None
        assert without_times(answer) == without_times(answers[number])


@pytest.mark.parametrize("form", RECORDED_FORMS)
async def test_a_push_looks_as_recorded_and_history_repeats_its_payload(form: Form, run: Run, connect: Connect) -> None:
    hub = await run(form=form)
    client = await connect(hub)
    await client.subscribe()
    hub.user("demo").emit(50)

    records = [await client.record() for _ in range(50)]
    page = await client.answer("GetEventsSince", {"SinceEventSeqId": 0, "Limit": 1000})

    truth = [line.decode().rstrip("\n") for line in hub.user("demo").emitted()]
    for record, line in zip(records, truth, strict=True):
        callback, payload = re.fullmatch(r'{"sequence":\d+,"callback":"(\w+)","payload":(.*)}', line).groups()  # type: ignore[union-attr]
        assert record == f'{{"type":1,"target":"{callback}","arguments":[{payload}]}}'
        assert payload in page


async def test_negotiation_answers_as_recorded(run: Run, session: aiohttp.ClientSession) -> None:
    hub = await run()
    recorded = json.loads((RECORDED / "camel-int.jsonl").read_text().splitlines()[0])
    headers = {"Authorization": f"Bearer {KEY}"}
    async with session.post(f"{hub.url}{PATH}/negotiate?negotiateVersion=1", headers=headers) as response:
        text = await response.text()

    def masked(text: str) -> str:
        return re.sub(r'("connection(?:Id|Token)":)"[\w-]{22}"', r'\1"…"', text)

    assert response.status == recorded["status"]
    assert masked(text) == masked(recorded["body"])
