"""Perplexity: how many tokens a model wavers between, on average, at each place of a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowbit.errors import DataError, NonFiniteError, ShapeError
from lowbit.models.model import LanguageModel
from lowbit.progress import Progress, ProgressCallback

#: elements of a window's logits that are worked on at a time; 1 MiB in float32 stays in the cache
CHUNK = 2**18

Logits = NDArray[np.float32]
Logs = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Window:
    """A run of tokens that the model sees alone.

    Args:
        start: place of its first token in the text.
        ids: the tokens, (length,) int64.
        first: index inside the window of the first token that is scored; 1 or more, since nothing foretells token 0.
    """

    start: int
    ids: Tensor
    first: int

    @property
    def scored(self) -> int:
        """How many of its tokens are scored."""
        return len(self.ids) - self.first


def windows(ids: Tensor, length: int, stride: int | None = None, limit: int | None = None) -> list[Window]:
    """Cut a stream of tokens into windows.

    Only whole windows are taken: fewer than ``stride`` tokens are left over at the end. A stream shorter
    than one window is one window of its own length.

    Args:
        ids: (tokens,) int64.
        length: tokens a window, 2 or more.
        stride: from one window's start to the next, 1 to ``length``. If it is ``length`` (and by default) each
            window is scored on its own, all tokens but its first; if it is less, only the new tokens are scored.
        limit: take no more than this many tokens from the stream, 2 or more.

    Raises:
        DataError: fewer than 2 tokens, or an argument outside its range.
    """
    stride = length if stride is None else stride
    if length < 2:
        raise DataError(f"a window of {length} tokens scores nothing; take 2 or more")
    if not 1 <= stride <= length:
        raise DataError(f"stride {stride} does not fit a window of {length} tokens; take 1 to {length}")
    if limit is not None and limit < 2:
        raise DataError(f"at most {limit} tokens a text scores nothing; take 2 or more")
    ids = ids[:limit]
    if len(ids) < 2:
        raise DataError(f"a text of {len(ids)} tokens scores nothing; give a text with at least 2")
    if len(ids) < length:
        return [Window(0, ids, 1)]
    starts = range(0, len(ids) - length + 1, stride)
    return [Window(start, ids[start : start + length], max(length - stride, 1) if start else 1) for start in starts]


@dataclass(frozen=True)
class Score:
    """What a model makes of a text.

    Args:
        text: the text's name.
        tokens: how many tokens were scored.
        windows: how many windows they came from.
        window: tokens a window; for a text shorter than the window that was asked for, its own length.
        stride: from one window's start to the next.
        nll: negative log-likelihood of the scored tokens together, in nats.
        perplexity: exp(nll / tokens); inf from 709 nats a token on.
    """

    text: str
    tokens: int
    windows: int
    window: int
    stride: int
    nll: float
    perplexity: float

    @property
    def loss(self) -> float:
        """Nats per scored token."""
        return self.nll / self.tokens


class Observer(Protocol):
    """Sees every scored place once, in order, while its logits are at hand; keeps no view of them."""

    def __call__(self, logits: Logits, total: Logs) -> None:
        """Take some places: logits (places, vocabulary), and ``log_total`` of them."""


def log_total(logits: Logits) -> Logs:
    """log(sum(exp(x))) of each row: exponentials in float32, their sum in float64.

    By numpy, whose sums do not depend on the number of threads. Against float64 throughout the error is near
    1e-8 at 262,144 columns; a float32 ``log_softmax`` is off by 1e-5 there, always to the same side.

    Shapes:
        logits  (rows, n)
        result  (rows,); -inf for a row of -inf, nan for a row with nan or inf
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        top = logits.max(axis=1)
        shift = np.where(np.isneginf(top), np.float32(0), top)
        total: Logs = shift + np.log(np.exp(logits - shift[:, None]).sum(axis=1, dtype=np.float64))
    return total


def score(
    model: LanguageModel,
    text: str,
    cut: Sequence[Window],
    stride: int | None = None,
    observers: Sequence[Observer] = (),
    progress: ProgressCallback | None = None,
) -> Score:
    """Run a model over windows, one sequence at a time, and add up its loss in order, in float64.

    No more than one window's logits are held at a time.

    Args:
        text: the text's name, for the result and for errors.
        cut: from ``windows``.
        stride: what they were cut with; by default their length.
        observers: called with the logits of every scored place.
        progress: told after each window.

    Raises:
        NonFiniteError: the loss of a window is NaN or Inf.
        ShapeError: the model's logits are not (1, length, vocabulary).
    """
    if progress is not None:
        progress(Progress("evaluate", 0, len(cut), text))
    nll = 0.0
    for number, window in enumerate(cut):
        loss = _window_loss(model, window, observers)
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"text {text!r}, window {number} (tokens {window.start} to {window.start + len(window.ids) - 1}): the loss is {loss}; "
                f"the logits of {model.name} hold NaN or Inf there"
            )
        nll += loss
        if progress is not None:
            progress(Progress("evaluate", number + 1, len(cut), text))
    length, tokens = len(cut[0].ids), sum(window.scored for window in cut)
    return Score(text, tokens, len(cut), length, length if stride is None else min(stride, length), nll, _exp(nll / tokens))


def _window_loss(model: LanguageModel, window: Window, observers: Sequence[Observer]) -> float:
    """The loss of one window in nats; its logits are gone when this returns."""
    with torch.no_grad():
        scores = model.logits(window.ids[None])
    if scores.ndim != 3 or scores.shape[:2] != (1, len(window.ids)):
        raise ShapeError(f"the logits of {model.name} are {tuple(scores.shape)}; they should be (1, {len(window.ids)}, vocabulary)")
    logits: Logits = scores[0, window.first - 1 : -1].detach().to("cpu", torch.float32).numpy()
    targets = window.ids[window.first :].numpy()
    nll, rows = 0.0, max(1, CHUNK // logits.shape[1])
    for begin in range(0, len(logits), rows):
        part, ids = logits[begin : begin + rows], targets[begin : begin + rows]
        total = log_total(part)
        nll += float((total - part[np.arange(len(ids)), ids]).sum())
        if not math.isfinite(nll):
            return nll
        for observe in observers:
            observe(part, total)
    return nll


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
