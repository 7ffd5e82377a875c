# ruff: noqa: ANN401 - what the hub says is JSON

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.events import CALLBACKS, EventSource
from gateway.simulator.wire import TICKS, Clock, Form, Style

STRATEGIES = (1, 2, 3, 4, 5)
MOMENT = 1_795_354_345 * TICKS + 533_061
RECORDED = Path(__file__).parent / "recorded"
RECORDED_FORMS = (Form.CAMEL_INT, Form.PASCAL_STRING)


def recorded(form: Form) -> dict[str, Any]:
    """One payload of each kind, as a real ASP.NET Core hub sent it."""
    payloads = {}
    for line in (RECORDED / f"{form}.jsonl").read_text().splitlines():
        frame = json.loads(line).get("in", "")
        if '"target"' in frame:
            record = json.loads(frame.rstrip("\x1e"))
            payloads[record["target"]] = record["arguments"][0]
    return payloads


def misfit(real: Any, made: Any, at: str = "") -> str | None:
    """Say where `made` has another shape than `real`; null fits everything, since the recordings are but samples."""
    match real, made:
        case (None, _) | (_, None):
            return None
        case dict(), dict():
            if list(real) != list(made):
                return f"{at}: {list(real)} is not {list(made)}"
            return next((found for name in real if (found := misfit(real[name], made[name], f"{at}.{name}"))), None)
        case list(), list():
            return misfit(real[0], made[0], f"{at}[0]")
        case (bool(), bool()) | (str(), str()):
            return None
        case (int() | float(), int() | float()) if not isinstance(real, bool) and not isinstance(made, bool):
            return None
    return f"{at}: {real!r} and {made!r}"


def payloads(form: Form, count: int = 2_000) -> list[bytes]:
    source = EventSource(7, "demo", STRATEGIES)
    return [source.make(sequence, Style(form), MOMENT)[1] for sequence in range(1, count + 1)]


@pytest.mark.parametrize("form", RECORDED_FORMS)
@pytest.mark.parametrize("callback", CALLBACKS)
def test_every_kind_has_the_shape_that_a_real_hub_sent(form: Form, callback: str) -> None:
    source = EventSource(7, "demo", STRATEGIES)
    for sequence in range(1, 100):
        _, payload = source.make(sequence, Style(form), MOMENT, [CALLBACKS.index(callback)])
        assert misfit(recorded(form)[callback], json.loads(payload)) is None


def test_the_recordings_have_all_seventeen_kinds() -> None:
    assert set(recorded(Form.CAMEL_INT)) == set(recorded(Form.PASCAL_STRING)) == set(CALLBACKS)


@pytest.mark.parametrize("form", Form)
def test_the_first_seventeen_events_are_one_of_each_kind(form: Form) -> None:
    source = EventSource(7, "demo", STRATEGIES)
    kinds = [source.make(sequence, Style(form), MOMENT)[0].callback for sequence in range(17)]
    assert kinds == list(range(17))


def test_the_same_seed_makes_the_same_events() -> None:
    assert payloads(Form.CAMEL_INT, 200) == payloads(Form.CAMEL_INT, 200)


def test_two_users_of_one_seed_have_no_event_in_common() -> None:
    one, other = EventSource(7, "one", STRATEGIES), EventSource(7, "other", STRATEGIES)
    ids = re.compile(rb'"eventId":"([^"]+)"')
    of_one = {ids.findall(one.make(n, Style(Form.CAMEL_INT), MOMENT)[1])[-1] for n in range(200)}
    of_other = {ids.findall(other.make(n, Style(Form.CAMEL_INT), MOMENT)[1])[-1] for n in range(200)}
    assert len(of_one) == len(of_other) == 200
    assert not of_one & of_other


@pytest.mark.parametrize("form", Form)
def test_only_characters_beyond_the_basic_plane_are_escaped(form: Form) -> None:
    text = b"".join(payloads(form))
    assert "Zürich – ライブ \\uD83E\\uDD8B".encode() in text  # noqa: RUF001 - as recorded
    assert b"S1 Call \\\"A\\\" <&> 'b'" in text
    assert b"back\\\\slash\\ttab" in text


def test_decimals_keep_their_scale() -> None:
    text = b"".join(payloads(Form.CAMEL_INT))
    for decimal in (b'"IVRank_pct":0.10', b'"MaxLoss":-100.10', b'"tgt":79228162514264337593543950335'):
        assert decimal in text


@pytest.mark.parametrize("form", Form)
def test_the_keys_of_dictionaries_are_never_re_cased(form: Form) -> None:
    text = b"".join(payloads(form))
    for key in (b'"maxLoss":', b'"TargetPct":', b'"Long_Put":', b'"short_put":', b'"max_loss":', b'"0":['):
        assert key in text


def test_some_errors_belong_to_no_strategy() -> None:
    source = EventSource(7, "demo", STRATEGIES)
    errors = [source.make(n, Style(Form.CAMEL_INT), MOMENT, [CALLBACKS.index("OnError")]) for n in range(100)]
    without = [payload for template, payload in errors if template.strategy is None]
    assert without
    assert all(json.loads(payload)["strategyId"] is None for payload in without)


@pytest.mark.parametrize(
    ("ticks", "text"),
    [
        (MOMENT, b"2026-11-22T13:32:25.0533061Z"),
        (1_795_354_345 * TICKS + 500_000, b"2026-11-22T13:32:25.05Z"),
        (1_795_354_345 * TICKS, b"2026-11-22T13:32:25Z"),
    ],
)
def test_times_have_up_to_seven_digits_and_no_trailing_zero(ticks: int, text: bytes) -> None:
    assert Clock().write(ticks) == text


def test_a_core_makes_at_least_20_000_events_a_second() -> None:
    source = EventSource(7, "demo", STRATEGIES)
    source.make(0, Style(Form.CAMEL_INT), MOMENT)
    began = time.process_time()
    for sequence in range(1, 20_001):
        source.make(sequence, Style(Form.CAMEL_INT), MOMENT)
    assert time.process_time() - began < 1
