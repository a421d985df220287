"""Measure a language model on texts: perplexity, divergence from the original, time and memory."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from lowbit.data.text import Text
from lowbit.errors import DataError
from lowbit.evaluation.divergence import Reference
from lowbit.evaluation.perplexity import Observer, Score, score, windows
from lowbit.models.model import LanguageModel
from lowbit.progress import ProgressCallback

if sys.platform != "win32":
    import resource


@dataclass(frozen=True)
class Evaluation:
    """What was found on all texts.

    Args:
        model: the model's name.
        window, stride: as asked for, in tokens.
        max_tokens: the most tokens taken from each text, or None.
        scores: loss and perplexity, one a text, in the order given.
        kl: text -> KL(original || this model) in nats a token; empty if there was no reference.
        agreement: text -> share of places, in [0, 1], with the original's likeliest token; empty if there was no reference.
        seconds: wall-clock time.
        peak_memory: the most bytes that this process has held since it began; 0 where the system does not tell.
        reference: what a changed model can be compared with, if it was to be kept.
    """

    model: str
    window: int
    stride: int
    max_tokens: int | None
    scores: tuple[Score, ...]
    kl: Mapping[str, float]
    agreement: Mapping[str, float]
    seconds: float
    peak_memory: int
    reference: Reference | None = field(default=None, repr=False, compare=False)

    @property
    def perplexity(self) -> dict[str, float]:
        """Text -> perplexity."""
        return {each.text: each.perplexity for each in self.scores}

    @property
    def tokens(self) -> dict[str, int]:
        """Text -> how many tokens were scored."""
        return {each.text: each.tokens for each in self.scores}

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON; an infinite perplexity becomes None."""
        texts = {}
        for each in self.scores:
            figures = asdict(each)
            name = figures.pop("text")
            figures["perplexity"] = finite(each.perplexity)
            texts[name] = {**figures, "kl": self.kl.get(name), "agreement": self.agreement.get(name)}
        return {
            "model": self.model,
            "window": self.window,
            "stride": self.stride,
            "max_tokens": self.max_tokens,
            "texts": texts,
            "seconds": self.seconds,
            "peak_memory": self.peak_memory,
        }


def evaluate(
    model: LanguageModel,
    texts: Sequence[Text],
    *,
    window: int = 512,
    stride: int | None = None,
    max_tokens: int | None = None,
    reference: Reference | None = None,
    keep_reference: bool = False,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Score a model on texts, one sequence at a time; perplexity, divergence and agreement come from the same logits.

    Dropout and the like are off meanwhile.

    Args:
        window, stride, max_tokens: as ``length``, ``stride`` and ``limit`` of ``windows``; ``max_tokens`` holds for each text.
        reference: the ``reference`` of the original model's evaluation on the same texts; asks for kl and agreement.
        keep_reference: keep what this model says, so that others can be compared with it.
        progress: told after each window of each text.

    Raises:
        DataError: no text, a text twice, a text that is too short, a window longer than the model's context, or a
            reference taken on other tokens.
        NonFiniteError: the loss of a window is NaN or Inf.
        OutputError: the reference has no room on disk.
    """
    begin = time.perf_counter()
    names = [text.name for text in texts]
    if not names:
        raise DataError("there is no text to evaluate on; give one or more")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"text {twice!r} is given twice; give each text once")
    if window > model.context:
        raise DataError(f"a window of {window} tokens is longer than the context of {model.name}; take at most {model.context}")
    kept = Reference() if keep_reference else None
    scores, kl, agreement = [], {}, {}
    with contextlib.ExitStack() as on_failure, _evaluating(model.module):
        if kept is not None:
            on_failure.callback(kept.close)
        for text in texts:
            ids = model.encode(text.content)
            if len(ids) < 2:
                raise DataError(f"text {text.name!r} has too few tokens, {len(ids)}; give a text with at least 2")
            cut = windows(ids, window, stride, max_tokens)
            divergence = None if reference is None else reference.divergence(text.name, cut)
            observers: list[Observer] = [] if divergence is None else [divergence]
            if kept is not None:
                observers.append(kept.recorder(text.name, cut))
            scores.append(score(model, text.name, cut, stride, observers, progress))
            if divergence is not None:
                kl[text.name], agreement[text.name] = divergence.kl, divergence.agreement
        on_failure.pop_all()
    return Evaluation(
        model.name,
        window,
        window if stride is None else stride,
        max_tokens,
        tuple(scores),
        kl,
        agreement,
        time.perf_counter() - begin,
        peak_memory(),
        kept,
    )


def peak_memory() -> int:
    """The most bytes of memory that this process has held since it began; 0 on Windows, where Python cannot tell."""
    if sys.platform == "win32":
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def finite(value: float | None) -> float | None:
    """The value, or None if it is not a number that JSON knows."""
    return value if value is not None and abs(value) < float("inf") else None


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every submodule's own mode again afterwards."""
    before = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, training in before:
            each.training = training
