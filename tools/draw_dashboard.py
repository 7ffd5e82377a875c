"""Draws docs/images/dashboard.svg: panels of the overview, by their own queries.

A real Prometheus that scrapes a demo answers them. `make pictures` runs it, in two minutes. An account is paused and
let run again meanwhile, and a range is replayed, so that there is something to see.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from tests.support.dashboards import PANELS, Panel, asked
from tests.support.prometheus_server import Prometheus

_GATEWAY: Final = Path(sys.executable).with_name("gateway")
_RUN_S: Final = 80.0
_GAP_S: Final = 1.5
_MEANWHILE: Final = (
    (0.4, "/v1/accounts/beta/target-state", {"state": "paused"}),
    (0.6, "/v1/accounts/gamma/replays", {"since": 100, "until": 900}),
    (0.7, "/v1/accounts/beta/target-state", {"state": "running"}),
)
"""What is asked of the gateway, and after which part of the run."""
_PANELS: Final = (
    "Accounts by state",
    "Lag of the worst accounts",
    "Throughput by kind",
    "Duration of commits",
    "Messages in a commit",
    "CPU by replica",
)
_COLOURS: Final = ("#73bf69", "#5794f2", "#f2cc0c", "#ff9830", "#b877d9", "#f2495c", "#8ab8ff", "#96d98d", "#ffb357")
_UNITS: Final = {"s": ", seconds", "eps": ", events a second"}
_WIDTH: Final = 460
_HEIGHT: Final = 200
_LETTER: Final = 6.2
Point = tuple[float, float]


@dataclass(frozen=True)
class Seen:
    """What a panel shows between two moments."""

    begin: float
    end: float
    series: Sequence[tuple[str, list[Point]]]


def _ask(url: str, body: object) -> None:
    method = "POST" if url.endswith("replays") else "PUT"
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)  # noqa: S310 - our own server
    urllib.request.urlopen(request, timeout=30).close()  # noqa: S310 - our own server


def _panel_of(title: str) -> Panel:
    (found,) = [panel for (board, name), panel in PANELS.items() if board == "overview" and name == title]
    return found


def _range(url: str, query: str, begin: float, end: float) -> list[tuple[str, list[Point]]]:
    """Return the series of a query, a point a second; those that are 0 all the time are left out."""
    concrete = asked(query, job="gateway")
    body = urllib.parse.urlencode({"query": concrete, "start": begin, "end": end, "step": 1}).encode()
    with urllib.request.urlopen(f"{url}/api/v1/query_range", body, timeout=30) as answer:  # noqa: S310 - our own server
        found = json.loads(answer.read())["data"]["result"]
    quantile = re.search(r"histogram_quantile\(([\d.]+)", query)
    label = f"p{float(quantile[1]) * 100:g}" if quantile else "all"
    named = [
        (", ".join(one["metric"].values()) or label, [(float(at), float(value)) for at, value in one["values"]])
        for one in found
    ]
    return [(name, points) for name, points in named if any(value for _, value in points)]


def _pieces(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Yield what is to be drawn as one line each: where a series was not there, none is."""
    begin = 0
    for index in range(1, len(points) + 1):
        if index == len(points) or points[index][0] - points[index - 1][0] > _GAP_S:
            yield list(points[begin:index])
            begin = index


def _drawn(place: tuple[int, int], title: str, seen: Seen) -> str:
    (x, y), unit = place, _UNITS.get(_panel_of(title).json["fieldConfig"]["defaults"].get("unit", ""), "")
    left, right, top, bottom = x + 50, x + _WIDTH - 14, y + 38, y + _HEIGHT - 40
    most = max((value for _, points in seen.series for _, value in points), default=0.0) * 1.1 or 1.0
    parts = [
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" fill="#181b1f" stroke="#2c3235"/>',
        f'<text x="{x + 12}" y="{y + 22}" font-weight="600">{escape(title)}{unit}</text>',
    ]
    for part in range(3):
        level, shown = bottom - (bottom - top) * part / 2, f"{most * part / 2:.3g}"
        parts.append(f'<path d="M{left} {level:g} H{right}" stroke="#2c3235"/>')
        parts.append(f'<text x="{left - 6}" y="{level + 4:g}" text-anchor="end" font-size="11">{shown}</text>')
    at_x = float(left)
    ranked = sorted(seen.series, key=lambda one: -max(value for _, value in one[1]))
    for (name, points), colour in zip(ranked, _COLOURS, strict=False):
        for piece in _pieces(points):
            line = " ".join(
                f"{left + (right - left) * (at - seen.begin) / (seen.end - seen.begin):.1f},"
                f"{bottom - (bottom - top) * value / most:.1f}"
                for at, value in piece
            )
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if at_x + _LETTER * len(name) + 20 < right:
            parts.append(f'<rect x="{at_x:g}" y="{bottom + 17}" width="9" height="3" fill="{colour}"/>')
            parts.append(f'<text x="{at_x + 13:g}" y="{bottom + 23}" font-size="11">{escape(name)}</text>')
            at_x += _LETTER * len(name) + 28
    return "\n".join(parts)


def _observe(prometheus: Prometheus) -> dict[str, Seen]:
    """Run the demo for a while, with a pause and a replay, and return what each panel shows then."""
    demo = subprocess.Popen([_GATEWAY, "demo"], stdout=subprocess.PIPE, text=True)  # noqa: S603 - ours
    try:
        output = ""
        while "Ctrl-C" not in output and demo.stdout is not None:
            output += demo.stdout.readline()
        control = re.findall(r"control: (\S+)", output)[0]
        prometheus.scrape([re.findall(r"metrics on http://([\d.:]+)", output)[0]])
        begin = time.time()
        for share, path, body in _MEANWHILE:
            time.sleep(max(0.0, begin + share * _RUN_S - time.time()))
            _ask(control + path, body)
        time.sleep(max(0.0, begin + _RUN_S - time.time()))
        end, begin = time.time(), begin + 5
        return {
            title: Seen(
                begin,
                end,
                [
                    one
                    for query in _panel_of(title).queries.values()
                    for one in _range(prometheus.url, query, begin, end)
                ],
            )
            for title, queries in ((title, _panel_of(title).queries) for title in _PANELS)
        }
    finally:
        demo.send_signal(signal.SIGTERM)
        demo.wait()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Prometheus(Path(folder)) as prometheus:
        found = _observe(prometheus)
    places = [(14 + (index % 2) * (_WIDTH + 12), 14 + (index // 2) * (_HEIGHT + 12)) for index in range(len(_PANELS))]
    width, height = 2 * _WIDTH + 40, places[-1][1] + _HEIGHT + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img"',
        'font-family="system-ui, sans-serif" font-size="13" fill="#ccccdc">',
        "<title>Panels of the overview during a demo</title>",
        f'<rect width="{width}" height="{height}" fill="#111217"/>',
        *(_drawn(place, title, found[title]) for place, title in zip(places, _PANELS, strict=True)),
        "</svg>",
    ]
    (Path(__file__).parents[1] / "docs" / "images" / "dashboard.svg").write_text("\n".join(parts) + "\n", "utf-8")


if __name__ == "__main__":
    main()
