"""From results to a table: medians, their spread, and the ratio to each baseline."""

from __future__ import annotations

import os
import platform
from statistics import median
from typing import Any

from benchmarks.task import Result

_UNITS = {
    "events/s": "{:,.0f}",
    "CPU µs/event": "{:.1f}",
    "events/commit": "{:.0f}",
    "taken live": "{:.0%}",
    "p50 ms": "{:.2f}",
    "p99 ms": "{:.2f}",
}


def machine() -> dict[str, object]:
    """Say where this was measured."""
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}


def rows(scenario: str, budgets: dict[str, float], results: dict[str, list[Result]]) -> list[dict[str, Any]]:
    """Return a row for each contender; the first one's ratios to the others stand in theirs."""
    table = []
    for contender, runs in results.items():
        figures = _figures(runs)
        measured = {name: {"median": median(each), "runs": each} for name, each in figures.items()}
        row: dict[str, Any] = {"scenario": scenario, "contender": contender, **measured}
        if table:
            decisive = "p99 ms" if "p99 ms" in figures else "events/s"
            row["ratio"] = table[0][decisive]["median"] / measured[decisive]["median"]
            budget = budgets.get(contender)
            if budget is not None:
                row["budget"] = budget
                row["reached"] = row["ratio"] <= budget if decisive == "p99 ms" else row["ratio"] >= budget
        table.append(row)
    return table


def _figures(runs: list[Result]) -> dict[str, list[float]]:
    figures = {"CPU µs/event": [1e6 * run.cpu / run.events for run in runs]}
    if any(run.latencies for run in runs):
        figures["p50 ms"] = [1e3 * _quantile(run.latencies, 0.50) for run in runs]
        figures["p99 ms"] = [1e3 * _quantile(run.latencies, 0.99) for run in runs]
    else:
        figures = {"events/s": [run.events / run.seconds for run in runs], **figures}
    if all(run.commits for run in runs):
        figures["events/commit"] = [run.events / run.commits for run in runs]
        if runs[0].pushes is not None and not runs[0].latencies:
            figures["taken live"] = [(run.pushes or 0) / run.events for run in runs]
    return figures


def _quantile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def markdown(table: list[dict[str, Any]]) -> str:
    """Write the table: of each figure the median, and the least and the most of the runs."""
    columns = ["contender", *_UNITS, "the gateway's part", "budget"]
    lines, scenario = [], None
    for row in table:
        if row["scenario"] != scenario:
            scenario = row["scenario"]
            names = [name for name in columns if name not in _UNITS or name in row]
            lines += ["", f"**{scenario}**", "", f"| {' | '.join(names)} |", f"|---{'|---:' * (len(names) - 1)}|"]
        cells = [row["contender"]]
        cells += [_cell(row[name], message) if name in row else "" for name, message in _UNITS.items() if name in names]
        cells.append(f"{row['ratio']:.2f}" if "ratio" in row else "")
        cells.append(_budget(row))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines[1:])


def _cell(figure: dict[str, Any], form: str) -> str:
    runs = figure["runs"]
    spread = f" ({form.format(min(runs))} to {form.format(max(runs))})" if len(runs) > 1 else ""
    return form.format(figure["median"]) + spread


def _budget(row: dict[str, Any]) -> str:
    if "budget" not in row:
        return ""
    sign = "≤" if "p99 ms" in row else "≥"
    return f"{sign} {row['budget']:g}: {'reached' if row['reached'] else 'not reached'}"
