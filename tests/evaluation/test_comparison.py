"""Comparisons: the JSON layout that others read, and a table that fits the terminal."""

import io
import json
import math

from rich.console import Console

from lowbit.data.text import Text
from lowbit.evaluation.comparison import Comparison, Row, table
from lowbit.evaluation.measure import evaluate

BASELINE = Row("bfloat16", "", {"a": 20.0, "dir/b.txt": 10.0}, bits_per_weight=16.0, nbytes=270_000_000)
ROWS = (
    Row(
        "nvfp4",
        "gptq",
        {"a": 22.0, "dir/b.txt": 12.5},
        {"a": 0.0766, "dir/b.txt": 0.2},
        {"a": 0.9, "dir/b.txt": 0.8},
        4.5,
        75_900_000,
        33.7,
    ),
    Row(
        "int2 g64 [x]",
        "rtn",
        {"a": 4.8e6, "dir/b.txt": math.inf},
        {"a": 12.1, "dir/b.txt": 13.0},
        {"a": 0.0, "dir/b.txt": 0.0},
        2.25,
        38_000_000,
        0.1,
    ),
    Row("int8 row", "rtn", {"a": 20.01, "dir/b.txt": 10.001}, bits_per_weight=8.016, nbytes=135_000_000, seconds=1234.5),
)


def comparison(*texts, rows=ROWS):
    return Comparison("SmolLM2", BASELINE, rows, texts, 512, 256, dict.fromkeys(texts, 40_880))


def rendered(shown, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table(shown))
    return console.file.getvalue().splitlines()


def test_the_json_layout():
    said = comparison("a", "dir/b.txt").to_json()
    assert {"model", "notes", "activations", "texts", "window", "stride", "tokens", "peak_memory", "baseline", "rows"} == set(said)
    assert (said["model"], said["texts"], said["window"], said["stride"]) == ("SmolLM2", ["a", "dir/b.txt"], 512, 256)
    assert said["tokens"] == {"a": 40880, "dir/b.txt": 40880}
    assert said["rows"][0] == {
        "weights": "nvfp4",
        "solver": "gptq",
        "perplexity": 22.0,
        "kl": 0.0766,
        "agreement": 0.9,
        "bits_per_weight": 4.5,
        "nbytes": 75_900_000,
        "seconds": 33.7,
        "texts": {
            "a": {"perplexity": 22.0, "kl": 0.0766, "agreement": 0.9},
            "dir/b.txt": {"perplexity": 12.5, "kl": 0.2, "agreement": 0.8},
        },
    }
    assert set(said["baseline"]) == set(said["rows"][0])
    assert (said["baseline"]["perplexity"], said["baseline"]["kl"]) == (20.0, None)
    assert [row["weights"] for row in said["rows"]] == ["nvfp4", "int2 g64 [x]", "int8 row"]


def test_what_json_cannot_say_is_null():
    said = json.loads(json.dumps(comparison("dir/b.txt").to_json(), allow_nan=False))
    assert said["rows"][1]["perplexity"] is None and said["rows"][1]["kl"] == 13.0
    assert said["rows"][2]["kl"] is None


def test_the_row_of_an_evaluation(table_model):
    kept = evaluate(table_model(), [Text("a", "hear, hear! " * 9)], window=32, keep_reference=True)
    found = evaluate(table_model(noise=0.1), [Text("a", "hear, hear! " * 9)], window=32, reference=kept.reference)
    row = Row.of(found, "int4", "rtn", bits_per_weight=4.25, nbytes=7, seconds=2.0)
    assert row == Row("int4", "rtn", found.perplexity, found.kl, found.agreement, 4.25, 7, 2.0)
    assert row.label == "int4 · rtn"
    original = Row.of(kept, "float32", "", bits_per_weight=32.0, nbytes=8, seconds=0.0)
    assert original.label == "float32" and original.kl == {}

    model = table_model()
    model.notes = ("a note",)
    made = Comparison.of(model, original, [row], kept)
    assert made == Comparison("table", original, (row,), ("a",), 32, 32, {"a": kept.scores[0].tokens}, ("a note",))
    assert made.to_json()["notes"] == ["a note"] and made.to_json()["rows"][0]["kl"] == found.kl["a"]


def test_the_table_of_one_text_fits_100_columns():
    lines = rendered(comparison("a"), 100)
    assert max(map(len, lines)) <= 100
    text = "\n".join(line.rstrip() for line in lines)
    assert "…" not in text
    cells = [line.split() for line in lines]
    assert ["weights", "solver", "bits/weight", "MB", "perplexity", "KL", "top-1", "seconds"] in cells
    assert ["bfloat16", "-", "16.000", "270.0", "20.000", "-", "-", "0.0"] in cells
    assert ["nvfp4", "gptq", "4.500", "75.90", "22.000", "x1.100", "0.0766", "90.00%", "33.7"] in cells
    assert ["int2", "g64", "[x]", "rtn", "2.250", "38.00", "4.80e+06", "x2.4e+05", "12.1000", "0.00%", "0.1"] in cells
    assert ["int8", "row", "rtn", "8.016", "135.0", "20.010", "x1.001", "-", "-", "1,234.5"] in cells
    assert "SmolLM2" in text and "a: 40,880 tokens, window 512, stride 256" in text


def test_rows_stay_in_order_and_long_specs_are_folded_not_cut():
    long = Row("int4 g64 asym mse scale=(float8_e4m3fn tensor) round=stochastic", "gptq", {"a": 21.0}, bits_per_weight=4.3)
    lines = rendered(comparison("a", rows=(*ROWS, long)), 100)
    assert max(map(len, lines)) <= 100
    starts = [line.split()[0] for line in lines if line.split()]
    assert [name for name in starts if name in ("bfloat16", "nvfp4", "int2", "int8", "int4")] == [
        "bfloat16",
        "nvfp4",
        "int2",
        "int8",
        "int4",
    ]
    folded = " ".join(word for line in lines for word in line[:22].split())
    for word in long.weights.split():
        assert word in folded or word in folded.replace(" ", "")


def test_several_texts_have_columns_of_their_own():
    shown = comparison("a", "dir/b.txt")
    assert shown.columns()[4:-1] == ["perplexity a", "KL a", "top-1 a", "perplexity b.txt", "KL b.txt", "top-1 b.txt"]
    assert shown.cells(ROWS[0])[4:-1] == ["22.000 x1.100", "0.0766", "90.00%", "12.500 x1.250", "0.2000", "80.00%"]
    assert shown.cells(ROWS[1])[7] == "inf xinf"
    assert "12.500" in "\n".join(rendered(shown, 160))


def test_a_small_divergence_keeps_its_digits():
    shown = comparison("a", rows=(Row("int8", "rtn", {"a": 20.0}, {"a": 0.000123}), Row("f32", "rtn", {"a": 20.0}, {"a": 0.0})))
    assert [shown.cells(each)[5] for each in shown.rows] == ["1.2e-04", "0.0000"]
