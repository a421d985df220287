"""The chart: one file that loads nothing, with every row labelled, drawn in the right place, and legible."""

import math
import re
import stat
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import pytest

import lowbit.evaluation.chart as chart
from lowbit.errors import OutputError
from lowbit.evaluation.chart import losses, page, write_chart
from lowbit.evaluation.comparison import Comparison, Row

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """The elements of a page as (tag, attributes, text inside); complains about what is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        element = [tag, dict(attributes), ""]
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, tag, **attributes):
        return [e for e in self.elements if e[0] == tag and all(e[1].get(k) == v for k, v in attributes.items())]


BASELINE = Row("bfloat16", "", {"wiki": 20.0}, bits_per_weight=16.0, nbytes=270_000_000)


def row(weights, solver, bits, kl):
    return Row(weights, solver, {"wiki": 20.0 * math.exp(kl)}, {"wiki": kl}, {"wiki": 0.9}, bits, int(bits * 1e6), 1.0)


def comparison(*rows, texts=("wiki",), model="SmolLM2"):
    return Comparison(model, BASELINE, rows, texts, 512, 512, dict.fromkeys(texts, 1000), ("a <note>",))


CROWD = [
    row(f"{weights} g{group}", solver, 4 + 16 / group, kl * factor)
    for weights, kl in [("int4", 0.3), ("nf4", 0.16), ("e2m1", 0.2), ("ternary", 4.0)]
    for group in (16, 32, 64)
    for solver, factor in [("rtn", 1.0), ("gptq", 0.97), ("hqq", 0.99)]
]


def places(text):
    """Of each point: label -> (x, y) of its circle, and (left, top, right, bottom) of its label at 6 pixels a letter."""
    found = {}
    for g in re.findall(r'<g class="point">.*?</g>', text, re.S):
        circle = re.search(r'cx="([\d.]+)" cy="([\d.]+)"', g)
        label = re.search(r'<text text-anchor="(\w+)" x="([\d.]+)" y="([\d.]+)">(.*?)</text>', g)
        x, y, length = float(label[2]), float(label[3]), 6 * len(label[4])
        left = x if label[1] == "start" else x - length
        found[label[4]] = (float(circle[1]), float(circle[2])), (left, y - 10, left + length, y + 2)
    return found


def test_every_row_has_a_labelled_point_with_all_its_figures():
    shown = comparison(*CROWD)
    parsed = Page(page(shown))
    points = parsed.all("g", **{"class": "point"})
    assert len(points) == len(parsed.all("circle")) == len(CROWD) == 36
    labels = [text for _, attributes, text in parsed.all("text") if attributes.get("class") != "axis"]
    assert sorted(labels) == sorted(each.label for each in CROWD)
    titles = {text for tag, _, text in parsed.elements if tag == "title"}
    for each in CROWD:
        figures = "\n".join(f"{name}: {cell}" for name, cell in zip(shown.columns(), shown.cells(each), strict=True))
        assert figures in titles


def test_labels_cover_neither_each_other_nor_points():
    found = places(page(comparison(*CROWD)))
    assert len(found) == len(CROWD)
    boxes = [box for _, box in found.values()]
    for a, b in combinations(boxes, 2):
        assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
    for (x, y), _ in found.values():
        assert not any(left < x < right and top < y < bottom for left, top, right, bottom in boxes)
    assert all(left >= 0 and right <= chart.WIDTH for left, _, right, _ in boxes)


def test_points_stand_where_their_figures_say():
    found = places(page(comparison(row("a", "rtn", 2, 1.0), row("b", "rtn", 4, 0.1), row("c", "rtn", 8, 0.01))))
    (ax, ay), (bx, by), (cx, cy) = (found[f"{name} · rtn"][0] for name in "abc")
    assert ax < bx < cx and cx - bx == pytest.approx(2 * (bx - ax), abs=0.4)
    assert ay < by < cy and cy - by == pytest.approx(by - ay, abs=0.4)


def test_the_table_beneath_holds_every_row():
    shown = comparison(*CROWD[:3])
    parsed = Page(page(shown))
    cells = [text for _, _, text in parsed.all("td")]
    assert cells == [cell for each in (BASELINE, *CROWD[:3]) for cell in shown.cells(each)]
    assert [text for _, _, text in parsed.all("th")] == shown.columns()


def test_nothing_is_loaded_from_elsewhere_and_no_script_runs():
    text = page(comparison(*CROWD))
    assert "http:" not in text and "https:" not in text and "//" not in text and "@import" not in text and "url(" not in text
    parsed = Page(text)
    assert not {tag for tag, _, _ in parsed.elements} & {"script", "link", "img", "iframe", "object", "embed"}
    assert not any({"src", "href", "xlink:href", "data"} & set(attributes) for _, attributes, _ in parsed.elements)
    assert len(text) < 60_000


def test_light_and_dark():
    style = Page(page(comparison(*CROWD))).all("style")[0][2]
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    names = re.findall(r"(--\w+):", light)
    assert names and names == re.findall(r"(--\w+):", dark)
    assert set(re.findall(r"var\((--\w+)\)", page(comparison(*CROWD)))) <= set(names)


def test_what_users_wrote_is_text_not_markup():
    evil = '<script>alert("1")</script>&amp;'
    text = page(comparison(row(evil, evil, 4, 0.1), model=evil))
    parsed = Page(text)
    assert not parsed.all("script")
    assert parsed.all("h1")[0][2] == evil
    assert "note: a <note>" in [inside for _, _, inside in parsed.all("p")]
    assert f"{evil} · {evil}" in [inside for _, _, inside in parsed.all("text")]


def test_no_loss_is_hollow_on_the_bottom_line_and_no_figure_is_named():
    text = page(comparison(row("float16", "rtn", 16, 0.0), row("int4", "rtn", 4, 0.2), row("int2", "rtn", 2, math.inf)))
    found = places(text)
    assert set(found) == {"float16 · rtn", "int4 · rtn"}
    assert found["float16 · rtn"][0][1] > found["int4 · rtn"][0][1]
    (hollow,) = Page(text).all("circle", **{"class": "none"})
    assert float(hollow[1]["cy"]) == found["float16 · rtn"][0][1]
    assert "a hollow point on the bottom line lost nothing that was measured; not drawn: int2 · rtn" in text


def test_without_divergences_the_axis_is_the_increase_of_the_loss():
    bare = Row("int4", "rtn", {"wiki": 30.0}, bits_per_weight=4.0)
    shown = comparison(row("nvfp4", "rtn", 4.5, 0.1), bare)
    axis, found = losses(shown, "wiki")
    assert axis == "increase of the loss, nats a token"
    assert found == pytest.approx([0.1, math.log(1.5)])
    assert "wiki: increase of the loss, nats a token" in page(shown)
    assert losses(comparison(row("nvfp4", "rtn", 4.5, 0.1)), "wiki") == ("KL divergence from the original, nats a token", [0.1])


def test_a_chart_for_each_text():
    both = Row("int4", "rtn", {"wiki": 30.0, "docs/py.txt": 9.0}, {"wiki": 0.4, "docs/py.txt": 0.1}, bits_per_weight=4.0)
    parsed = Page(page(comparison(both, texts=("wiki", "docs/py.txt"))))
    assert len(parsed.all("svg")) == 2 and len(parsed.all("g", **{"class": "point"})) == 2
    assert [text for _, _, text in parsed.all("h2")] == [
        f"{name}: KL divergence from the original, nats a token" for name in ("wiki", "py.txt")
    ]


@pytest.mark.parametrize("rows", [[], [row("int4", "rtn", 4, 0.1)], [row("int4", "rtn", 4, 0.1)] * 2, [row("f16", "rtn", 16, 0.0)]])
def test_few_rows(rows):
    text = page(comparison(*rows))
    assert len(Page(text).all("circle")) == len(rows)
    assert "nan" not in text and "inf" not in text


def test_more_solvers_than_colours():
    rows = [row("int4", f"solver{i}", 4, 0.1 + i / 10) for i in range(chart.COLOURS + 2)]
    text = page(comparison(*rows))
    assert text.count("fill:var(--c") == chart.COLOURS and text.count("fill:var(--soft)") >= 2


def test_ticks_span_short_and_long_ranges():
    assert chart._ticks_log(-1.1, 0.8) == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5])
    assert chart._ticks_log(-3.5, 1.2) == pytest.approx([0.001, 0.01, 0.1, 1, 10])


def test_crossing_lines():
    assert chart._cross((0, 0, 10, 10), (0, 10, 10, 0))
    assert not chart._cross((0, 0, 10, 10), (0, 0, 10, 0))  # one end in common
    assert not chart._cross((0, 0, 1, 1), (5, 5, 6, 0))


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "chart.html"
    path.write_text("old")
    write_chart(comparison(*CROWD), path)
    assert path.read_text(encoding="utf-8") == page(comparison(*CROWD))
    assert list(tmp_path.iterdir()) == [path]
    fresh = tmp_path / "fresh"
    fresh.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(fresh.stat().st_mode)


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "chart.html"
    path.write_text("old")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match=re.escape(f"{str(path)!r} cannot be written: the disk is full")):
        write_chart(comparison(*CROWD), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["missing/chart.html", "."])
def test_a_place_that_cannot_be_written(tmp_path, place):
    with pytest.raises(OutputError, match="cannot be written: "):
        write_chart(comparison(*CROWD), tmp_path / place)
    assert list(tmp_path.iterdir()) == []
