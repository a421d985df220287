"""ACIQ: the clipping value with the least expected squared error when numbers are normal or Laplacian."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, amax, fixed_sum

BANNER = Source(
    "Post-training 4-bit quantization of convolution networks for rapid-deployment",
    "Banner, Nahshan, Hoffer, Soudry",
    2018,
    "arXiv:1810.05723",
    parts="analytical clipping",
    departs="Numbers are taken as symmetric around zero: sigma and b are the root mean square and the mean magnitude.",
)


def _normal(alpha: float) -> float:
    """The derivative of half the clipping error of N(0, 1), negative."""
    density = math.exp(-alpha * alpha / 2) / math.sqrt(2 * math.pi)
    return -2 * (density - alpha * math.erfc(alpha / math.sqrt(2)) / 2)


def _laplace(alpha: float) -> float:
    """The same for a Laplace distribution of mean magnitude 1."""
    return -math.exp(-alpha)


@lru_cache(maxsize=256)
def clipping(distribution: str, levels: int) -> float:
    """The alpha where d/d alpha [clipping error + alpha^2 / (3 levels^2)] = 0, in units of sigma (normal) or b (laplace)."""
    slope: Callable[[float], float] = _normal if distribution == "normal" else _laplace
    low, high = 0.0, 200.0
    for _ in range(80):
        middle = (low + high) / 2
        if slope(middle) + middle / (3 * levels**2) > 0:
            high = middle
        else:
            low = middle
    return low


@dataclass(frozen=True)
class ACIQ(Rule):
    """scale = min(alpha, max|x|) / top for a format of equal steps."""

    name: ClassVar[str] = "aciq"
    distribution: ClassVar[str] = "normal"

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        if fmt.max - fmt.min != (fmt.levels - 1) * fmt.step_at_top:
            raise UnsupportedError(f"{self.name} needs a format of equal steps, those of {fmt.name} differ; use int4 for instance")
        largest = amax(blocks)
        sizes = blocks.double().abs()
        total = fixed_sum(sizes * sizes if self.distribution == "normal" else sizes) / max(1, blocks.shape[-1])
        unit = total.sqrt() if self.distribution == "normal" else total
        alpha = torch.minimum(clipping(self.distribution, fmt.levels) * unit, largest.double())
        return Affine(torch.where(torch.isnan(largest), torch.nan, (alpha / fmt.top).float()))


@register("scaling", "aciq_normal", BANNER)
@dataclass(frozen=True)
class Normal(ACIQ):
    """ACIQ for normal numbers: 2.55 sigma at 4 bits."""

    name: ClassVar[str] = "aciq_normal"


@register("scaling", "aciq_laplace", BANNER)
@dataclass(frozen=True)
class Laplace(ACIQ):
    """ACIQ for Laplacian numbers: 5.03 times the mean magnitude at 4 bits."""

    name: ClassVar[str] = "aciq_laplace"
    distribution: ClassVar[str] = "laplace"


aciq_normal, aciq_laplace = Normal(), Laplace()
