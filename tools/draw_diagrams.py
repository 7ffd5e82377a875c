# ruff: noqa: ISC004, PLR0917 - markup in pieces; a box is a place, a size and words
"""Draws the diagrams of the pages, docs/images/*.svg: `make pictures`. They need no script and no other host."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

_IMAGES: Final = Path(__file__).parents[1] / "docs" / "images"
_INK: Final = "#26324a"
_LINE: Final = "#5b6b8c"
_FILLS: Final = {"plain": "#ffffff", "ours": "#e3ebff", "store": "#e4f5ea", "note": "#fff6d9"}
_CHARACTER: Final = 6.6
"""Width of a letter at the size of labels, for the backgrounds of labels."""


class Drawing:
    """A picture on white, for light and dark pages alike."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
            'font-family="system-ui, sans-serif" font-size="13">',
            f"<title>{escape(title)}</title>",
            f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z" fill="{_LINE}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="10" fill="#fbfcff" stroke="#d5dcec"/>',
        ]

    def box(self, x: int, y: int, width: int, height: int, label: str, fill: str = "plain") -> None:
        """Draw a box with words, of which the first line is bold."""
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{_FILLS[fill]}" stroke="{_LINE}"/>'
        )
        lines = label.split("\n")
        top = y + height / 2 - (len(lines) - 1) * 8.5 + 4.5
        for index, line in enumerate(lines):
            weight = ' font-weight="600"' if index == 0 else ' font-size="12"'
            self.text(x + width / 2, top + index * 17, line, weight)

    def text(self, x: float, y: float, label: str, more: str = "", anchor: str = "middle") -> None:
        """Write one line."""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{_INK}"{more}>{escape(label)}</text>'
        )

    def arrow(self, start: tuple[int, int], end: tuple[int, int], label: str = "", *, dashed: bool = False) -> None:
        """Draw an arrow with words above its middle."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        (x, y), (to_x, to_y) = start, end
        self._parts.append(
            f'<path d="M{x} {y} L{to_x} {to_y}" stroke="{_LINE}" stroke-width="1.4" fill="none"{dash} '
            'marker-end="url(#tip)"/>'
        )
        lines = label.split("\n") if label else []
        for index, line in enumerate(lines):
            at = (y + to_y) / 2 - 6 - 15 * (len(lines) - 1 - index)
            width = len(line) * _CHARACTER
            self._parts.append(
                f'<rect x="{(x + to_x - width) / 2:g}" y="{at - 11:g}" width="{width:g}" height="14" fill="#fbfcff"/>'
            )
            self.text((x + to_x) / 2, at, line, ' font-size="12"')

    def lane(self, x: int, y: int, height: int, label: str) -> None:
        """Draw one who takes part in a sequence, with a line down."""
        self._parts.append(f'<path d="M{x} {y + 34} V{y + height}" stroke="#b9c4da" stroke-width="1.2"/>')
        self.box(x - 75, y, 150, 34, label, "ours")

    def save(self, name: str) -> None:
        """Write the picture."""
        (_IMAGES / f"{name}.svg").write_text("\n".join([*self._parts, "</svg>"]) + "\n", "utf-8")


def flow() -> None:
    drawing = Drawing(900, 315, "From the hub to the topics")
    drawing.box(20, 95, 140, 70, "MesoLive hub\none connection\nan account")
    drawing.box(300, 30, 290, 200, "", "ours")
    drawing.text(445, 52, "gateway, any number of replicas", ' font-weight="600"')
    drawing.box(315, 85, 120, 90, "session\noverlap, order,\nonce each")
    drawing.box(460, 85, 115, 90, "shard\none commit\nat a time")
    drawing.box(745, 80, 135, 145, "JetStream\nor Kafka\n17 event topics,\ndead-letter,\nnotifications", "store")
    drawing.arrow((160, 112), (315, 112), "pushes")
    drawing.arrow((160, 150), (315, 150), "history, by pages")
    drawing.arrow((435, 130), (460, 130))
    drawing.arrow((575, 130), (745, 130), "events + checkpoint,\none atomic commit")
    drawing.arrow((745, 203), (375, 203), dashed=True)
    drawing.text(667, 196, "checkpoint, at the start", ' font-size="12"')
    drawing.arrow((375, 203), (375, 175), dashed=True)
    drawing.arrow((812, 225), (812, 255))
    drawing.box(737, 255, 150, 46, "your services\nby topic and schema")
    drawing.save("flow")


def catch_up() -> None:
    drawing = Drawing(760, 430, "From history to live without a hole")
    hub, session, log = 120, 390, 650
    for x, label in ((hub, "hub"), (session, "session"), (log, "log")):
        drawing.lane(x, 15, 400, label)
    steps = (
        (session, hub, "SubscribeToStrategies", False),
        (hub, session, "push 105 (held)", True),
        (session, hub, "GetLatestEventSeqId: 104", False),
        (session, hub, "GetEventsSince(checkpoint 100)", False),
        (hub, session, "101, 102, 103 (history lags)", True),
        (session, log, "101 102 103 + checkpoint", False),
        (session, hub, "GetEventsSince(103)", False),
        (hub, session, "104, 105", True),
    )
    y = 85
    for start, end, label, dashed in steps:
        drawing.arrow((start, y), (end, y), label, dashed=dashed)
        y += 35
    drawing.box(250, y - 20, 280, 30, "passed 104 and overlaps 105: live", "note")
    drawing.arrow((session, y + 38), (log, y + 38), "104 105 + checkpoint")
    drawing.save("catch-up")


def replay() -> None:
    drawing = Drawing(900, 350, "A replay")
    lanes = {"operator": 95, "control plane": 275, "broker": 455, "owner of the shard": 635, "hub": 805}
    for label, x in lanes.items():
        drawing.lane(x, 15, 320, label)
    operator, control, broker, owner, hub = lanes.values()
    steps = (
        (operator, control, "POST …/replays", False),
        (control, broker, "desired: a replay", False),
        (control, operator, "202, Location", True),
        (broker, owner, "a replay is desired", True),
        (owner, hub, "GetEventsSince", False),
        (owner, broker, "live 204 + checkpoint,\n101 102 + progress", False),
        (owner, broker, "observed: 102 of 200", False),
    )
    y = 85
    for start, end, label, dashed in steps:
        drawing.arrow((start, y), (end, y), label, dashed=dashed)
        y += 50 if "\n" not in label and end == hub else 37
    drawing.save("replay")


def traces() -> None:
    drawing = Drawing(820, 270, "The spans and how they are linked")
    drawing.box(20, 30, 130, 40, "connect")
    drawing.box(230, 30, 130, 40, "catch-up")
    drawing.arrow((150, 50), (230, 50), "parent")
    drawing.box(20, 120, 230, 50, "create …order-update.v1.*\none message of a hundred", "ours")
    drawing.box(540, 120, 250, 50, "process …\nthe consumer's own span")
    drawing.arrow((250, 145), (540, 145), "traceparent in the message")
    drawing.box(20, 205, 230, 45, "send\na commit", "ours")
    drawing.arrow((135, 205), (135, 170), dashed=True)
    drawing.text(145, 192, "links", ' font-size="12"', "start")
    drawing.box(290, 205, 110, 45, "replay")
    drawing.box(610, 205, 180, 45, "GET /v1/accounts", "ours")
    drawing.box(440, 205, 90, 45, "caller")
    drawing.arrow((530, 228), (610, 228), "trace")
    drawing.save("traces")


def main() -> None:
    for draw in (flow, catch_up, replay, traces):
        draw()


if __name__ == "__main__":
    main()
