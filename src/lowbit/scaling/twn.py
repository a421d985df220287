"""TWN: the scale of a ternary format with the least squared error, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, finite_or_nan

LI = Source(
    "Ternary Weight Networks",
    "Li, Zhang, Liu",
    2016,
    "arXiv:1605.04711",
    parts="the optimal scale and threshold: the mean of the k largest magnitudes with the largest (sum of k)^2 / k",
    departs="Every k is tried, where the paper takes the threshold 0.7 * mean|x| as a shortcut.",
    records=("bitnet-b158",),
)


@register("scaling", "twn", LI)
@dataclass(frozen=True)
class TWN(Rule):
    """scale = mean of the k largest magnitudes, k = argmax (|x|_1 + .. + |x|_k)**2 / k; the rest rounds to zero by itself.

    Raises:
        UnsupportedError: the format's numbers are not -1, 0 and 1.
    """

    name: ClassVar[str] = "twn"

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        if (fmt.min, fmt.min_positive, fmt.max) != (-1.0, 1.0, 1.0):
            raise UnsupportedError(f"twn is for ternary numbers, {fmt.name} goes from {fmt.min:g} to {fmt.max:g}")
        if blocks.shape[-1] == 0:
            return Affine(blocks.new_zeros(blocks.shape[:-1]))
        sums = blocks.double().abs().sort(-1, descending=True).values.cumsum(-1)
        count = torch.arange(1, blocks.shape[-1] + 1, device=blocks.device)
        k = (sums * sums / count).argmax(-1, keepdim=True)
        mean = (sums / count).gather(-1, k).squeeze(-1)
        return Affine(finite_or_nan(torch.where(torch.isfinite(sums[..., -1]), mean, torch.nan).float()))


twn = TWN()
