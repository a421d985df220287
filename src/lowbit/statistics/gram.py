"""The Gram matrix of a layer's inputs, and the cross term between the full-precision and the quantized stream."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError, NonFiniteError
from lowbit.statistics.statistic import Statistic

GPTQ = Source(
    "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    "Frantar, Ashkboos, Hoefler, Alistarh",
    2022,
    "arXiv:2210.17323",
    parts="section 3.1 (the Hessian of the layer-wise problem, up to a factor 2)",
    departs="A sum over tokens, not a mean; the methods do not depend on its scale.",
)
QEP = Source(
    "Quantization Error Propagation: Revisiting Layer-Wise Post-Training Quantization",
    "Arai, Ichikawa",
    2025,
    "arXiv:2504.09629",
    parts="section 4, the matrix (X - X^) X^^T of Eq. 9",
    records=("qep",),
)


@register("statistic", "gram", GPTQ)
class Gram(Statistic):
    """H = sum over sequences of X^T X: a float32 product a sequence, added in float64.

    Shapes:
        value   (in, in) float64
    """

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.tokens = 0

    def update(self, x: Tensor, *, reference: Tensor | None = None) -> None:
        self._add(product(x, x), len(x))

    def _add(self, part: Tensor, tokens: int) -> None:
        self.total = part.to(torch.float64, copy=True) if self.total is None else self.total.add_(part)
        self.tokens += tokens

    def merge(self, other: Self) -> None:
        if other.total is not None:
            self._add(other.total, other.tokens)

    def value(self) -> Tensor:
        if self.total is None:
            raise DataError("no calibration data has reached this layer")
        return self.total


@register("statistic", "cross", QEP)
class Cross(Gram):
    """C = sum over sequences of (X - X^)^T X^ with X of the full-precision and X^ of the quantized stream.

    Shapes:
        value   (in, in) float64
    """

    def update(self, x: Tensor, *, reference: Tensor | None = None) -> None:
        if reference is None:
            raise DataError("the cross term needs the full-precision stream beside the quantized one")
        self._add(product(reference.float() - x.float(), x), len(x))


def product(a: Tensor, b: Tensor) -> Tensor:
    """a^T b in float32, refused when it is not finite.

    Raises:
        NonFiniteError: the inputs hold NaN or Inf, or are too large.
    """
    result = a.float().mT @ b.float()
    if not bool(torch.isfinite(result).all()):
        bad = sum(int((~torch.isfinite(x)).sum()) for x in ((a,) if a is b else (a, b)))
        raise NonFiniteError(f"the inputs of this layer hold {bad} NaN or Inf, or their squares overflow; look at the calibration data")
    return result
