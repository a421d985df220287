"""Rows: some of the numbers themselves, spread evenly over each sequence; and the mean magnitude and extremes of channels."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError
from lowbit.statistics.statistic import Statistic

LIN = Source(
    "AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration",
    "Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan, Han",
    2024,
    "arXiv:2306.00978",
    parts="section 3.2 (the mean magnitude of each channel), section 4 (a sample of the inputs)",
)

#: rows kept of each sequence
EACH = 16


def _none() -> DataError:
    return DataError("no calibration data has reached this layer")


@register("statistic", "rows", LIN)
class Rows(Statistic):
    """16 rows of each sequence, at equal distances.

    Shapes:
        value   (rows, in) float32
    """

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def update(self, x: Tensor, *, reference: Tensor | None = None) -> None:
        places = torch.linspace(0, len(x) - 1, min(EACH, len(x)), dtype=torch.float64).round().long()
        self.kept.append(x[places].float().clone())

    def merge(self, other: Self) -> None:
        self.kept += other.kept

    def value(self) -> Tensor:
        if not self.kept:
            raise _none()
        return torch.cat(self.kept)


@register("statistic", "absmean", LIN)
class Absmean(Statistic):
    """The mean magnitude of each channel.

    Shapes:
        value   (in,) float64
    """

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | None = None

    def update(self, x: Tensor, *, reference: Tensor | None = None) -> None:
        here = x.double().abs().sum(0)
        self.total = here if self.total is None else self.total + here
        self.count += len(x)

    def merge(self, other: Self) -> None:
        if other.total is not None:
            self.total = other.total if self.total is None else self.total + other.total
            self.count += other.count

    def value(self) -> Tensor:
        if self.total is None:
            raise _none()
        return self.total / self.count


@register("statistic", "extremes", LIN)
class Extremes(Statistic):
    """The smallest and the largest number of each channel.

    Shapes:
        value   (2, in) float32
    """

    def __init__(self) -> None:
        self.both: Tensor | None = None

    def update(self, x: Tensor, *, reference: Tensor | None = None) -> None:
        self._join(torch.stack((x.float().amin(0), x.float().amax(0))))

    def _join(self, both: Tensor) -> None:
        if self.both is not None:
            both = torch.stack((torch.minimum(self.both[0], both[0]), torch.maximum(self.both[1], both[1])))
        self.both = both

    def merge(self, other: Self) -> None:
        if other.both is not None:
            self._join(other.both)

    def value(self) -> Tensor:
        if self.both is None:
            raise _none()
        return self.both
