"""Evaluating: one pass gives every figure, the model is left as it was, and what does not fit is said at once."""

import json
import math
import re
import sys
from pathlib import Path

import pytest

import lowbit.evaluation.measure as measure
from lowbit.data.text import Text
from lowbit.errors import DataError, NonFiniteError
from lowbit.evaluation.divergence import Reference
from lowbit.evaluation.measure import evaluate, peak_memory
from lowbit.evaluation.perplexity import score, windows
from lowbit.progress import Progress

TEXTS = [Text("first", "How now brown cow? " * 20), Text("second", "Peter Piper picked a peck of pickled peppers. " * 9)]


@pytest.fixture
def original(table_model):
    return table_model(300)


@pytest.fixture
def changed(table_model):
    return table_model(300, noise=0.2)


def test_one_pass_gives_every_figure(original, changed):
    kept = evaluate(original, TEXTS, window=64, keep_reference=True)
    found = evaluate(changed, TEXTS, window=64, reference=kept.reference)
    assert len(changed.calls) == sum(len(windows(changed.encode(text.content), 64)) for text in TEXTS)

    for text, result in zip(TEXTS, found.scores, strict=True):
        cut = windows(changed.encode(text.content), 64)
        meter = kept.reference.divergence(text.name, cut)
        assert result == score(changed, text.name, cut, observers=[meter])
        assert (found.kl[text.name], found.agreement[text.name]) == (meter.kl, meter.agreement)
        assert meter.kl > 0 and meter.agreement < 1
        assert found.perplexity[text.name] == result.perplexity
    assert list(found.perplexity) == list(found.kl) == list(found.agreement) == ["first", "second"]
    assert found.tokens == {"first": 5 * 63, "second": 6 * 63}
    assert found.reference is None


def test_without_a_reference_there_is_no_divergence(original):
    found = evaluate(original, TEXTS, window=64)
    assert found.kl == found.agreement == {} and found.reference is None


def test_a_changed_model_may_be_a_reference_too(original, changed):
    kept = evaluate(original, TEXTS, window=64, keep_reference=True)
    middle = evaluate(changed, TEXTS, window=64, reference=kept.reference, keep_reference=True)
    assert evaluate(changed, TEXTS, window=64, reference=middle.reference).kl == {"first": 0.0, "second": 0.0}
    assert middle.kl["first"] > 0


def test_the_limit_is_per_text_and_the_stride_counts(original):
    found = evaluate(original, TEXTS, window=64, stride=16, max_tokens=130)
    assert found.tokens == {"first": 63 + 4 * 16, "second": 63 + 4 * 16}
    assert (found.window, found.stride, found.max_tokens) == (64, 16, 130)


def test_json(original, changed):
    kept = evaluate(original, TEXTS[:1], window=64, keep_reference=True)
    found = evaluate(changed, TEXTS[:1], window=64, reference=kept.reference)
    said = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    (only,) = found.scores
    assert said == {
        "model": "table",
        "window": 64,
        "stride": 64,
        "max_tokens": None,
        "texts": {
            "first": {
                "tokens": 315,
                "windows": 5,
                "window": 64,
                "stride": 64,
                "nll": only.nll,
                "perplexity": only.perplexity,
                "kl": found.kl["first"],
                "agreement": found.agreement["first"],
            }
        },
        "seconds": found.seconds,
        "peak_memory": found.peak_memory,
    }
    assert found.seconds > 0


def test_an_infinite_perplexity_is_null(table_model):
    found = evaluate(table_model(scale=3000.0), TEXTS[:1], window=64)
    assert found.perplexity["first"] == math.inf
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["texts"]["first"]["perplexity"] is None


def test_progress_after_each_window(original):
    seen = []
    evaluate(original, TEXTS, window=64, max_tokens=128, progress=seen.append)
    assert seen == [Progress("evaluate", done, 2, text) for text in ("first", "second") for done in (0, 1, 2)]


def test_dropout_is_off_meanwhile_and_each_mode_comes_back(original):
    original.module.train()
    original.module[1].eval()
    evaluate(original, TEXTS, window=64)
    assert not any(training for _, training in original.calls)
    assert [original.module.training, original.module[0].training, original.module[1].training] == [True, True, False]


def test_modes_come_back_after_an_error(original):
    original.module.train()
    original.table[:] = math.nan
    with pytest.raises(NonFiniteError):
        evaluate(original, TEXTS, window=64)
    assert original.module[0].training


def test_an_error_lets_go_of_the_reference(original, monkeypatch):
    made = []

    class Kept(Reference):
        def __init__(self):
            super().__init__(memory_limit=0)
            made.append(self)

    monkeypatch.setattr(measure, "Reference", Kept)
    with pytest.raises(DataError, match="text 'tiny' has too few tokens, 1"):
        evaluate(original, [TEXTS[0], Text("tiny", "x")], window=64, keep_reference=True)
    assert made[0].texts == () and made[0].disk_nbytes == 0
    assert evaluate(original, TEXTS, window=64, keep_reference=True).reference.texts == ("first", "second")


@pytest.mark.parametrize(
    "texts, arguments, message",
    [
        ([], {}, "there is no text to evaluate on; give one or more"),
        ([TEXTS[0], TEXTS[1], TEXTS[0]], {}, "text 'first' is given twice; give each text once"),
        (TEXTS, {"window": 513}, "a window of 513 tokens is longer than the context of table; take at most 512"),
        ([Text("none", "")], {}, "text 'none' has too few tokens, 0; give a text with at least 2"),
        (TEXTS, {"window": 32, "stride": 33}, "stride 33 does not fit a window of 32 tokens"),
    ],
)
def test_what_does_not_fit(original, texts, arguments, message):
    with pytest.raises(DataError, match=re.escape(message)):
        evaluate(original, texts, **arguments)
    assert original.calls == []


def test_a_text_shorter_than_the_window_is_one_window(original):
    found = evaluate(original, [Text("short", "abc")])
    assert [(each.tokens, each.windows, each.window) for each in found.scores] == [(2, 1, 3)]
    assert found.window == 512


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to compare with")
def test_peak_memory_is_in_bytes():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    assert peak_memory() == pytest.approx(int(line.split()[1]) * 1024, rel=0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="has no resource module")
@pytest.mark.parametrize("platform, expected", [("linux", 5 * 1024), ("darwin", 5), ("win32", 0)])
def test_peak_memory_knows_its_platforms(monkeypatch, platform, expected):
    class Usage:
        ru_maxrss = 5

    monkeypatch.setattr(measure.resource, "getrusage", lambda who: Usage)
    monkeypatch.setattr(measure.sys, "platform", platform)
    assert peak_memory() == expected
