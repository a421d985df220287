"""Formats as text: every code is there, lines and bars stand where they should."""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import pytest

from lowbit import catalog
from lowbit.evaluation import format_picture as show
from lowbit.formats.table import TableFormat
from lowbit.quantizers.spec import find_format as format_named


def test_the_table_of_a_small_format_holds_every_code() -> None:
    cells = re.findall(r"([01]{4}) +(-?[\d.]+)", show.codes_text(format_named("e2m1")))
    expected = {f"{c:04b}": float(v) for c, v in enumerate(np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(float))}
    assert {code: float(v) for code, v in cells} == expected


def test_a_large_format_is_summarized_by_binades() -> None:
    rows = re.findall(r"2\^(-?\d+) +(\d+) ", show.codes_text(format_named("float8_e5m2")))
    assert {int(e): int(n) for e, n in rows} == dict.fromkeys(range(-14, 16), 4) | {-15: 2, -16: 1}


def test_number_line_counts_what_falls_together() -> None:
    line, labels = show.number_line([0.0, 0.5, 0.5001, 1.0, 1.0, 1.0], [(0.0, "0"), (1.0, "end")])
    assert len(line) == show.WIDTH
    assert (line[0], line[-1], line.count("╪"), line.count("█"), line.count("┼")) == ("┼", "█", 1, 1, 1)
    assert labels.startswith("0")
    assert labels.endswith("end")
    assert len(labels) == show.WIDTH


@pytest.mark.parametrize(("name", "bits"), [("float8_e4m3fn", 4), ("bfloat16", 8), ("float6_e3m2fn", 3), ("float8_e5m2", 3)])
def test_floats_have_the_same_precision_at_every_normal_magnitude(name: str, bits: int) -> None:
    """The worst point is in the first gap of a binade: 1 / (2^(m + 1) + 1), so a hair more than m + 1 bits; fewer among subnormals."""
    found = show.significant_bits(format_named(name))
    assert len(found) == show.WIDTH
    assert all(bits < b < bits + 1 for b in found[len(found) // 2 :])
    assert found[0] == pytest.approx(np.log2(3))


def test_precision_of_posits_tapers_and_that_of_integers_grows() -> None:
    posit, integer = show.significant_bits(format_named("posit8_1")), show.significant_bits(format_named("int8"))
    middle = len(posit) // 2
    assert posit[middle] > 5 > 3 > posit[0] and posit[-1] < 3
    assert integer == sorted(integer) and integer[0] == pytest.approx(np.log2(3)) and integer[-1] > 7


def test_the_bars_are_as_high_as_the_bits() -> None:
    """A table that doubles: every gap has the error 1 / 3, which is 1.58 bits."""
    lines = show.precision(TableFormat("doubles", (0.0, 1.0, 2.0, 4.0, 8.0))).splitlines()
    assert [line[:4] for line in lines[1:3]] == ["   2", "   1"]
    assert lines[1][5:] == "▅" * show.WIDTH and lines[2][5:] == "█" * show.WIDTH
    assert lines[3].split() == ["2^0", "2^2", "2^3"]


def test_every_registered_table_has_its_pictures() -> None:
    for entry in catalog.entries("format"):
        if isinstance(entry.thing, TableFormat):
            assert show.codes_text(entry.thing)
            heights = show.significant_bits(entry.thing)
            assert not heights or (len(heights) == show.WIDTH and min(heights) > 0)
            assert len(show.precision(entry.thing).splitlines()) <= 11
