"""Ranges of a layer's inputs: the largest magnitude, mean and variance of each channel, and a histogram."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError, NonFiniteError
from lowbit.statistics.statistic import Statistic

WU = Source(
    "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation",
    "Wu, Judd, Zhang, Isaev, Micikevicius",
    2020,
    "arXiv:2004.09602",
    parts="section 3.1 (max, histogram calibration)",
    records=("int8-principles",),
)
CHAN = Source(
    "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances",
    "Chan, Golub, LeVeque",
    1979,
    "Stanford STAN-CS-79-773",
    parts="Eq. 2.1",
)


def _none() -> DataError:
    return DataError("no calibration data has reached this layer")


@register("statistic", "absmax", WU)
class Absmax(Statistic):
    """The largest magnitude of each channel.

    Shapes:
        value   (in,) float32
    """

    def __init__(self) -> None:
        self.largest: Tensor | None = None

    def update(self, x: Tensor, *, reference: Tensor | None = None) -> None:
        here = x.float().abs().amax(0)
        self.largest = here if self.largest is None else torch.maximum(self.largest, here)

    def merge(self, other: Self) -> None:
        if other.largest is not None:
            self.largest = other.largest if self.largest is None else torch.maximum(self.largest, other.largest)

    def value(self) -> Tensor:
        if self.largest is None:
            raise _none()
        return self.largest


@register("statistic", "moments", CHAN)
class Moments(Statistic):
    """Mean and variance of each channel, by Chan's update in float64.

    Shapes:
        value   (2, in) float64: mean, variance (over tokens, not minus one)
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def update(self, x: Tensor, *, reference: Tensor | None = None) -> None:
        data = x.double()
        mean = data.mean(0)
        self._join(len(x), mean, (data - mean).square().sum(0))

    def _join(self, count: int, mean: Tensor, squares: Tensor) -> None:
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total = self.count + count
        delta = mean - self.mean
        self.squares = self.squares + squares + delta.square() * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    def merge(self, other: Self) -> None:
        if other.mean is not None and other.squares is not None:
            self._join(other.count, other.mean, other.squares)

    def value(self) -> Tensor:
        if self.mean is None or self.squares is None:
            raise _none()
        return torch.stack((self.mean, self.squares / self.count))


@register("statistic", "histogram", WU)
class Histogram(Statistic):
    """Counts of |x| in equal bins from 0 to a limit that doubles when needed, merging pairs of bins, so no count is moved wrongly.

    Shapes:
        value   (bins + 1,) float64: the limit, then the counts

    Args:
        bins: an even number.

    Raises:
        DataError: bins is not even.
        NonFiniteError: the inputs hold NaN or Inf.
    """

    def __init__(self, bins: int = 2048) -> None:
        if bins < 2 or bins % 2:
            raise DataError(f"a histogram of {bins} bins; take an even number, 2048 for instance")
        self.bins = bins
        self.limit = 0.0
        self.counts = torch.zeros(bins, dtype=torch.float64)

    def _reach(self, largest: float) -> None:
        if self.limit == 0.0 and largest > 0:
            self.limit = 2.0 ** torch.tensor(largest, dtype=torch.float64).log2().ceil().item()
        while self.limit < largest:
            self.counts = self._coarser(self.counts)
            self.limit *= 2

    def _coarser(self, counts: Tensor) -> Tensor:
        """The same counts in bins of twice the width."""
        return torch.cat((counts.reshape(-1, 2).sum(1), torch.zeros(self.bins // 2, dtype=torch.float64)))

    def update(self, x: Tensor, *, reference: Tensor | None = None) -> None:
        """Count the magnitudes of inputs x (..., in).

        Raises:
            NonFiniteError: x holds NaN or Inf.
        """
        sizes = x.detach().float().abs().reshape(-1)
        largest = float(sizes.max()) if sizes.numel() else 0.0
        if not math.isfinite(largest):
            raise NonFiniteError(
                f"the inputs of this layer hold {int((~torch.isfinite(sizes)).sum())} NaN or Inf; look at the calibration data"
            )
        self._reach(largest)
        if self.limit == 0.0:
            self.counts[0] += sizes.numel()
            return
        place = (sizes.double() * (self.bins / self.limit)).long().clamp(max=self.bins - 1)
        self.counts += torch.bincount(place, minlength=self.bins).double()

    def merge(self, other: Self) -> None:
        if other.limit == 0.0:
            self.counts[0] += other.counts.sum()
            return
        self._reach(other.limit)
        counts, limit = other.counts, other.limit
        while limit < self.limit:
            counts, limit = self._coarser(counts), limit * 2
        self.counts = self.counts + counts

    def value(self) -> Tensor:
        return torch.cat((torch.tensor([self.limit], dtype=torch.float64), self.counts))
