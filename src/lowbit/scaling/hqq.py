"""HQQ: the offset of each block is moved until a sparse error norm stops falling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, fixed_sum, step

BADRI = Source(
    "Half-Quadratic Quantization of Large Machine Learning Models",
    "Badri, Shaji",
    2023,
    "https://mobiusml.github.io/hqq_blog/",
    parts="Eq. 3-6 (alternating the l_p shrinkage of the error and the mean that gives the zero point)",
    departs="The zero point is real and stored as an offset, x = s q + o with o = -s z. Every block keeps its own best iterate; "
    "the released code stops all blocks together.",
)


@register("scaling", "hqq", BADRI)
@dataclass(frozen=True)
class HQQ(Rule):
    """Minimizes ||W - W_q||_p^p over the offset for the scale of the block's range, by half-quadratic splitting.

    Args:
        p: the norm, in (0, 1].
        beta: the weight of the quadratic term, growing by ``growth`` an iteration.
        iterations: at most.
    """

    name: ClassVar[str] = "hqq"
    p: float = 0.7
    beta: float = 10.0
    growth: float = 1.01
    iterations: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1 or not self.beta > 0 or self.iterations < 1:
            raise UnsupportedError(f"{self}: p is in (0, 1], beta above 0, iterations at least 1")

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        if fmt.max - fmt.min != fmt.levels - 1 or fmt.min != int(fmt.min):
            raise UnsupportedError(f"hqq needs a format of consecutive integers, {fmt.name} is none; use int4 or uint4")
        low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
        scale = step(low, high, fmt.levels - 1)
        flat = scale == 0
        safe = torch.where(flat, torch.ones_like(scale), scale)
        zero = fmt.min - low / safe
        best_zero, least = zero, torch.full_like(zero, torch.inf)
        beta = self.beta
        for _ in range(self.iterations):
            q = (blocks / safe + zero).round().clamp(fmt.min, fmt.max)
            error = blocks - safe * (q - zero)
            size = _mean(error.abs())
            better = size < least
            best_zero, least = torch.where(better, zero, best_zero), torch.where(better, size, least)
            shrunk = error.sign() * (error.abs() - error.abs().clamp(min=1e-20).pow(self.p - 1) / beta).clamp(min=0)
            zero = _mean(q - (blocks - shrunk) / safe)
            beta *= self.growth
        largest = torch.finfo(torch.float32).max
        offset = torch.where(flat, low, (-safe * best_zero).clamp(-largest, largest))
        return Affine(scale.squeeze(-1), offset=offset.squeeze(-1))


def _mean(x: Tensor) -> Tensor:
    return (fixed_sum(x) / max(1, x.shape[-1])).float().unsqueeze(-1)


hqq = HQQ()
