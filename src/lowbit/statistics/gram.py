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


#: tokens of one product: with more, the products of torch depend on the number of threads
CHUNK = 512
#: columns of one product of a symmetric matrix, of which only one half is computed
PANEL = 256


class _Sum(Statistic):
    """A float64 sum of float32 products, added in the order of the data."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.tokens = 0

    def _add(self, a: Tensor, b: Tensor) -> None:
        """Add a^T b, chunk by chunk of tokens."""
        for first in range(0, len(a), CHUNK):
            self._add_product(a[first : first + CHUNK].float(), b[first : first + CHUNK].float())
        self.tokens += len(a)

    def _add_product(self, a: Tensor, b: Tensor) -> None:
        if self.total is None:
            self.total = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64, device=a.device)
        self.total += finite(a.mT @ b, a, b)

    def merge(self, other: Self) -> None:
        if other.total is not None:
            self.total = other.total.clone() if self.total is None else self.total.add_(other.total)
            self.tokens += other.tokens

    def value(self) -> Tensor:
        if self.total is None:
            raise DataError("no calibration data has reached this layer")
        return self.total


@register("statistic", "gram", GPTQ)
class Gram(_Sum):
    """H = sum over sequences of X^T X: float32 products of at most 512 tokens, added in float64.

    Shapes:
        value   (in, in) float64, symmetric to the last bit
    """

    def update(self, x: Tensor, *, reference: Tensor | None = None) -> None:
        self._add(x, x)

    def _add_product(self, a: Tensor, b: Tensor) -> None:
        n = a.shape[1]
        if self.total is None:
            self.total = torch.zeros(n, n, dtype=torch.float64, device=a.device)
        for first, last in _panels(n):  # what lies above the diagonal follows when it is asked for
            part = a[:, first:].mT @ a[:, first:last]
            finite(part[: last - first].diagonal(), a)
            self.total[first:, first:last] += part

    def value(self) -> Tensor:
        total = super().value()
        for first, last in _panels(len(total)):
            total[first:last, last:] = total[last:, first:last].mT
        return total


@register("statistic", "cross", QEP)
class Cross(_Sum):
    """C = sum over sequences of (X - X^)^T X^ with X of the full-precision and X^ of the quantized stream.

    Shapes:
        value   (in, in) float64
    """

    def update(self, x: Tensor, *, reference: Tensor | None = None) -> None:
        if reference is None:
            raise DataError("the cross term needs the full-precision stream beside the quantized one")
        self._add(reference.float() - x.float(), x)


def _panels(n: int) -> list[tuple[int, int]]:
    """Ranges of at least PANEL columns; narrower products would depend on the number of threads."""
    starts = list(range(0, max(n - PANEL, 0) + 1, PANEL))
    return list(zip(starts, [*starts[1:], n], strict=True))


def finite(result: Tensor, *inputs: Tensor) -> Tensor:
    """The result, which is refused when it is not finite: NaN and Inf in a column reach its row, and its square on the diagonal.

    Raises:
        NonFiniteError: the inputs hold NaN or Inf, or are too large.
    """
    if not bool(torch.isfinite(result).all()):
        bad = sum(int((~torch.isfinite(x)).sum()) for x in inputs)
        raise NonFiniteError(f"the inputs of this layer hold {bad} NaN or Inf, or their squares overflow; look at the calibration data")
    return result
