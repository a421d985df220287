"""Formats as text: their codes, the number line, and how precise they are at each magnitude."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lowbit.formats.table import TableFormat

WIDTH = 72  # columns of a picture
FULL = 64  # a format with more codes is summarized by binades


def number(value: float) -> str:
    """Six digits at most, NaN and Inf as they are usually written."""
    if math.isnan(value):
        return "NaN"
    return f"{value:g}".replace("inf", "Inf")


def codes_text(fmt: TableFormat) -> str:
    """Every code and its number in columns, or, for more than 64 codes, a line a binade."""
    if len(fmt.values) > FULL:
        return binades_text(fmt)
    cells = [f"{code:0{fmt.bits}b} {number(v):>10}" + ("*" if code in fmt.reserved else " ") for code, v in enumerate(fmt.values)]
    columns = min(4, -(-len(cells) // 4))
    rows = -(-len(cells) // columns)
    lines = ["  " + "   ".join(cells[r::rows]).rstrip() for r in range(rows)]
    return "\n".join(lines + ["  * is read but never written"] * bool(fmt.reserved))


def binades_text(fmt: TableFormat) -> str:
    """The positive numbers binade by binade."""
    groups: dict[int, list[float]] = {}
    for v in sorted({v for v in fmt.values if math.isfinite(v) and v > 0}):
        groups.setdefault(math.frexp(v)[1] - 1, []).append(v)
    lines = []
    for exponent, values in groups.items():
        steps = {high - low for low, high in pairwise(values)}
        step = f"step {number(min(steps))}" + f" to {number(max(steps))}" * (len(steps) > 1) if steps else ""
        lines.append(f"  2^{exponent:<5}{len(values):>6}   {number(values[0]):>12} .. {number(values[-1]):<12} {step}".rstrip())
    if len(lines) > 40:
        lines = [*lines[:18], f"  ... {len(lines) - 36} binades more", *lines[-18:]]
    return "\n".join(["  positive numbers, from each power of two to the next:", *lines])


def number_line(values: Sequence[float], labels: Sequence[tuple[float, str]]) -> list[str]:
    """Places in [0, 1] drawn on a line, with labels at some places below it."""
    counts = [0] * WIDTH
    for place in values:
        counts[round(place * (WIDTH - 1))] += 1
    below = [" "] * WIDTH
    end = -1
    for place, label in sorted(labels):
        start = min(max(round(place * (WIDTH - 1)) - len(label) // 2, 0), WIDTH - len(label))
        if start > end:
            below[start : start + len(label)] = label
            end = start + len(label)
    return ["".join("─┼╪█"[min(n, 3)] for n in counts), "".join(below).rstrip()]


def picture(fmt: TableFormat) -> str:
    """The number line twice: linear, and the magnitudes by their logarithm."""
    numbers = sorted({v for v in fmt.values if math.isfinite(v)})
    low, high = numbers[0], numbers[-1]
    marks = [v for v in (low, 0.0, high) if low <= v <= high]
    lines = ["  linear", *number_line([(v - low) / (high - low) for v in numbers], [((v - low) / (high - low), number(v)) for v in marks])]
    magnitudes = sorted({abs(v) for v in numbers if v != 0})
    first, last = math.log2(magnitudes[0]), math.log2(magnitudes[-1])
    if last > first:
        places = [(math.log2(v) - first) / (last - first) for v in magnitudes]
        powers = [e for e in (math.ceil(first), round((first + last) / 2), math.floor(last)) if first <= e <= last]
        lines += ["  magnitudes by powers of two", *number_line(places, [((e - first) / (last - first), f"2^{e}") for e in powers])]
    return "\n".join(line if line.startswith("  ") and line[2:3].isalpha() else f"  {line}" for line in lines)


def significant_bits(fmt: TableFormat, columns: int = WIDTH) -> list[float]:
    """-log2 of the largest relative error of rounding, in equal steps of the logarithm from the smallest positive number to the largest.

    Between neighbours a < b that error is (b - a) / (b + a), in the middle; a step holds the largest of the gaps that it meets. Empty where
    there are fewer than two positive numbers.
    """
    positive = np.array([v for v in fmt.lines[0].values if v > 0])
    if len(positive) < 2:
        return []
    error = np.diff(positive) / (positive[1:] + positive[:-1])
    places = (np.log2(positive) - np.log2(positive[0])) / np.log2(positive[-1] / positive[0]) * columns
    worst = np.zeros(columns)
    for gap, (start, end) in zip(error, pairwise(places), strict=True):
        met = slice(int(start), max(math.ceil(end - 1e-9), int(start) + 1))
        worst[met] = np.maximum(worst[met], gap)
    return [float(b) for b in -np.log2(worst)]


def precision(fmt: TableFormat) -> str:
    """Significant bits by magnitude as bars; empty where ``significant_bits`` is."""
    bits = significant_bits(fmt)
    if not bits:
        return ""
    first, last = (math.log2(v) for v in (next(v for v in fmt.lines[0].values if v > 0), fmt.lines[0].values[-1]))
    step = max(1, math.ceil(max(bits) / 8))
    lines = []
    for level in range(math.ceil(max(bits) / step), 0, -1):
        bars = (" ▁▂▃▄▅▆▇█"[min(max(round(8 * (b / step - level + 1)), 0), 8)] for b in bits)
        lines.append(f"{level * step:>4} {''.join(bars)}".rstrip())
    exponents = [e for e in (math.ceil(first), round((first + last) / 2), math.floor(last)) if first <= e <= last]
    _, labels = number_line([], [((e - first) / (last - first), f"2^{e}") for e in exponents])
    return "\n".join(["  significant bits by magnitude: -log2 of the largest relative error of rounding", *lines, f"     {labels}"])
