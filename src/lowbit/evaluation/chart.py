"""The chart of a comparison: one HTML file that needs nothing else, bits per weight against what was lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from lowbit.checkpoint.writing import whole
from lowbit.evaluation.comparison import Comparison, Row, short

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 960, 70, 20, 16, 46
LINE, LETTER, RADIUS = 15, 6.7, 5
COLOURS = 8

Box = tuple[float, float, float, float]
Lead = tuple[float, float, float, float]

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --soft: #5d6670; --rule: #dfe3e8;
  --c0: #1f66b0; --c1: #c4561a; --c2: #2a8050; --c3: #8a3fa8; --c4: #8f6b00; --c5: #bf2f45; --c6: #117f8a; --c7: #565b9c; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --ink: #e6e9ed; --soft: #9aa4af; --rule: #333a42;
  --c0: #6aaef0; --c1: #f0935c; --c2: #6cc793; --c3: #cf93e8; --c4: #d9b445; --c5: #f28797; --c6: #5cc8d3; --c7: #a7abef; } }
body { margin: 2rem auto; max-width: 1000px; padding: 0 1rem; background: var(--page); color: var(--ink); }
body { font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .3rem; } p { color: var(--soft); margin: .2rem 0; }
.wide { overflow-x: auto; } svg { display: block; min-width: 680px; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .axis { fill: var(--soft); } svg .rule { stroke: var(--rule); }
.point circle { stroke: var(--page); stroke-width: 1.5; } .point .none { fill: var(--page); stroke-width: 2; }
.point line { stroke-width: .8; } .point:hover line { stroke-width: 2; } .point:hover text { font-weight: 700; }
.key { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin: 0 .35em 0 1em; }
table { border-collapse: collapse; margin-top: 1.5rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--rule); } th { color: var(--soft); font-weight: 600; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; } tr.original td { border-bottom: 2px solid var(--soft); }
"""


def write_chart(comparison: Comparison, path: str | Path) -> None:
    """Write the chart and the table of a comparison; the file appears whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    with whole(Path(path)) as part:
        part.write_text(page(comparison), encoding="utf-8")


def page(comparison: Comparison) -> str:
    """The chart as an HTML document: an inline SVG a text, a table, no script, nothing loaded from elsewhere."""
    solvers = list(dict.fromkeys(row.solver for row in comparison.rows))
    keys = "".join(f'<span class="key" style="background:{_colour(i)}"></span>{escape(name)}' for i, name in enumerate(solvers) if name)
    figures = "".join(_figure(comparison, text, solvers) for text in comparison.texts)
    head = "".join(f"<th>{escape(name)}</th>" for name in comparison.columns())
    notes = "".join(f"<p>note: {escape(note)}</p>\n" for note in comparison.notes)
    body = [_table_row(comparison, comparison.baseline, ' class="original"'), *(_table_row(comparison, row) for row in comparison.rows)]
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(comparison.model)}: bits against loss</title><style>{STYLE}</style></head>
<body>
<h1>{escape(comparison.model)}</h1>
<p>{escape(comparison.caption)}</p>
<p>original: {escape(_original(comparison))}</p>
{notes}<p>solver:{keys}</p>
{figures}
<div class="wide"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{chr(10).join(body)}
</tbody></table></div>
</body></html>
"""


def _original(comparison: Comparison) -> str:
    row = comparison.baseline
    said = [f"perplexity {row.perplexity[text]:.3f} on {short(text)}" for text in comparison.texts if text in row.perplexity]
    return ", ".join([f"{row.bits_per_weight:g} bits a weight", *said])


def _table_row(comparison: Comparison, row: Row, kind: str = "") -> str:
    return f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in comparison.cells(row)) + "</tr>"


def _colour(index: int) -> str:
    return f"var(--c{index})" if index < COLOURS else "var(--soft)"


def losses(comparison: Comparison, text: str) -> tuple[str, list[float | None]]:
    """What the y axis shows for a text: KL where every row has it, else the increase of the loss, log(ppl / ppl of the original)."""
    if all(text in row.kl for row in comparison.rows):
        return "KL divergence from the original, nats a token", [row.kl[text] for row in comparison.rows]
    original = comparison.baseline.perplexity[text]
    found = [math.log(row.perplexity[text] / original) if text in row.perplexity else None for row in comparison.rows]
    return "increase of the loss, nats a token", found


@dataclass
class _Point:
    """A row on the chart, in pixels; ``none`` says that no loss was measured, so it stands on the bottom line."""

    row: Row
    x: float
    y: float
    none: bool
    label_x: float = 0.0
    label_y: float = 0.0


def _figure(comparison: Comparison, text: str, solvers: list[str]) -> str:
    """One chart: axes, points and labels of a text."""
    axis, found = losses(comparison, text)
    shown = [(row, value) for row, value in zip(comparison.rows, found, strict=True) if value is not None and math.isfinite(value)]
    left_out = [row.label for row, value in zip(comparison.rows, found, strict=True) if value is None or not math.isfinite(value)]
    height = max(420, TOP + BOTTOM + LINE * (len(shown) + 6))
    bottom = height - BOTTOM

    positive = [value for _, value in shown if value > 0] or [1.0]
    low, high = math.log10(min(positive)) - 0.15, math.log10(max(positive)) + 0.15
    low, high = (low - 0.5, high + 0.5) if high - low < 0.5 else (low, high)
    bits = [row.bits_per_weight for row, _ in shown] or [0.0]
    narrow, wide = math.floor(min(bits) - 0.25), math.ceil(max(bits) + 0.25)

    def across(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - narrow) / (wide - narrow)

    def down(value: float) -> float:
        return bottom - (bottom - TOP) * (math.log10(value) - low) / (high - low)

    points = [_Point(row, across(row.bits_per_weight), down(v) if v > 0 else bottom, v <= 0) for row, v in shown]
    _place_labels(points, bottom)
    lines = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(axis)} against bits a weight, {escape(short(text))}">']
    for value in _ticks_log(low, high):
        lines.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(value):.1f}" y2="{down(value):.1f}"/>')
        lines.append(f'<text class="axis" text-anchor="end" x="{LEFT - 8}" y="{down(value) + 4:.1f}">{value:g}</text>')
    for tick in range(narrow, wide + 1, max(1, (wide - narrow) // 16)):
        lines.append(f'<line class="rule" x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="{TOP}" y2="{bottom}"/>')
        lines.append(f'<text class="axis" text-anchor="middle" x="{across(tick):.1f}" y="{bottom + 18}">{tick}</text>')
    lines.append(f'<text class="axis" text-anchor="middle" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 8}">bits a weight</text>')
    lines += [_mark(comparison, point, solvers) for point in points]
    notes = ["lower and further left is better; log scale"]
    notes += ["a hollow point on the bottom line lost nothing that was measured"] if any(point.none for point in points) else []
    notes += [f"not drawn: {', '.join(left_out)}"] if left_out else []
    return (
        f'<h2>{escape(short(text))}: {axis}</h2>\n<p>{escape("; ".join(notes))}</p>\n<div class="wide">{chr(10).join(lines)}\n</svg></div>'
    )


def _mark(comparison: Comparison, point: _Point, solvers: list[str]) -> str:
    """A point with its label, a line between them if they are apart, and all figures as its title."""
    colour = _colour(solvers.index(point.row.solver))
    figures = "\n".join(f"{name}: {cell}" for name, cell in zip(comparison.columns(), comparison.cells(point.row), strict=True))
    look = f'class="none" style="stroke:{colour}"' if point.none else f'style="fill:{colour}"'
    ends = f'x1="{point.x:.1f}" y1="{point.y:.1f}" x2="{point.label_x:.1f}" y2="{point.label_y:.1f}"'
    lead = f'<line style="stroke:{colour}" {ends}/>' if abs(point.label_y - point.y) > 1 else ""
    anchor, gap = ("start", 2) if point.label_x > point.x else ("end", -2)
    return (
        f'<g class="point"><title>{escape(figures)}</title>{lead}<circle {look} cx="{point.x:.1f}" cy="{point.y:.1f}" r="{RADIUS}"/>'
        f'<text text-anchor="{anchor}" x="{point.label_x + gap:.1f}" y="{point.label_y + 4:.1f}">{escape(point.row.label)}</text></g>'
    )


def _place_labels(points: Sequence[_Point], bottom: float) -> None:
    """Give each label a free place near its point: beside it, or some lines up or down, away from its neighbours.

    A place costs its distance in lines, 2 for the side where the neighbours are, and 4 for each line to
    another label that the line to this one would cross; the cheapest that covers nothing is taken.
    """
    boxes = [(p.x - RADIUS, p.y - RADIUS, p.x + RADIUS, p.y + RADIUS) for p in points]
    leads: list[Lead] = []
    for point in sorted(points, key=lambda p: (p.y, p.x)):
        near = [p.x - point.x for p in points if abs(p.x - point.x) < 150 and abs(p.y - point.y) < 4 * LINE]
        best: tuple[float, Box, float, Lead] | None = None
        for step in range(-len(points) - 6, len(points) + 7):
            for side in (1, -1):
                start = point.x + side * (RADIUS + 5 + 6 * min(abs(step), 2))
                y, end = point.y + step * LINE, start + side * (2 + LETTER * len(point.row.label))
                box = (min(start, end), y - LINE / 2 + 0.5, max(start, end), y + LINE / 2 - 0.5)
                if box[0] < LEFT or box[2] > WIDTH - 2 or not TOP <= y <= bottom or any(_overlap(box, other) for other in boxes):
                    continue
                lead = (point.x, point.y, start, y)
                cost = abs(step) + (2 if side * sum(near) > 0 else 0) + 4 * sum(_cross(lead, other) for other in leads)
                if best is None or (cost, side < 0) < (best[0], best[2] < point.x):
                    best = cost, box, start, lead
        if best is None:  # no free place at all: beside the point, over what is there
            best = 0.0, (point.x, point.y, point.x, point.y), point.x + RADIUS + 5, (point.x, point.y, point.x, point.y)
        boxes.append(best[1])
        leads.append(best[3])
        point.label_x, point.label_y = best[2], (best[1][1] + best[1][3]) / 2


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _cross(a: Lead, b: Lead) -> bool:
    """Whether two segments cross; those that only touch or share an end do not."""

    def side(p: Lead, x: float, y: float) -> float:
        return (p[2] - p[0]) * (y - p[1]) - (p[3] - p[1]) * (x - p[0])

    return side(a, b[0], b[1]) * side(a, b[2], b[3]) < 0 and side(b, a[0], a[1]) * side(b, a[2], a[3]) < 0


def _ticks_log(low: float, high: float) -> list[float]:
    """Powers of ten between 10**low and 10**high, with their 2 and 5 if the span is short."""
    steps = (1,) if high - low > 3 else (1, 2, 5)
    ticks = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]
