"""Learned weight clipping: the range of each block is a learned share of the one that its largest numbers ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.quantizers.grid import Grid
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.solvers import neighbours, ranges
from lowbit.solvers.neighbours import grid_of, stored
from lowbit.solvers.ranges import Learned
from lowbit.solvers.reconstruction import Adam, Reconstruction, Soft

SHAO = Source(
    "OmniQuant: Omnidirectionally Calibrated Quantization for Large Language Models",
    "Shao et al.",
    2023,
    "arXiv:2308.13137",
    parts="section 3.2, Eq. 2 (learnable weight clipping), block by block",
    departs="Without the equivalent transformation, a method of its own. The share is relative to the first one, so that the start is that "
    "of rounding to nearest. A higher rate for far fewer steps.",
)
#: where the logits begin
BEGIN = 4.0
#: sigmoid(4) = 0.98, which stands for the whole range
WHOLE = 1 / (1 + math.exp(-BEGIN))


@register("solver", "learned_clip", SHAO)
@dataclass(frozen=True)
class LearnedClip(Reconstruction):
    """Ends of a block's range c(g) * hi and c(b) * lo, c(x) = sigmoid(x) / sigmoid(4), with g and b by Adam on the block's error.

    Both begin at 4, so with the whole range, and weights round to nearest.

    Args:
        steps, batch, checks: see ``Reconstruction``.
        rate: of Adam.

    Raises:
        UnsupportedError: a rate that is not above 0, or a quantizer whose scales cannot be moved alone.
    """

    rate: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rate > 0:
            raise UnsupportedError(f"learned_clip:rate={self.rate:g}: the rate is above 0")

    def soft(self, W: Tensor, quantizer: Quantizer, start: Weight) -> Soft:
        return Clipped(W, quantizer, start, self.rate)

    def refuses(self, quantizer: Quantizer) -> str | None:
        return neighbours.refusal(quantizer, "learned_clip") or ranges.refusal(quantizer, "learned_clip")


class Clipped(Soft):
    """One weight with the logits of its shares."""

    def __init__(self, W: Tensor, quantizer: Quantizer, start: Weight, rate: float) -> None:
        self.W, self.quantizer = W, quantizer
        self.learned = Learned(*grid_of(W, quantizer, start))
        count = 1 if self.learned.ends is None else 2
        self.parameters = tuple(torch.full_like(self.learned.scale0, BEGIN) for _ in range(count))
        self.adams = [Adam(p, rate) for p in self.parameters]

    def _round(self) -> tuple[Tensor, Grid]:
        self.shares = [p.sigmoid() / WHOLE for p in self.parameters]
        return self.learned.round(self.shares[0], self.shares[1] if len(self.shares) > 1 else None, None)

    def values(self) -> Tensor:
        return self._round()[0]

    def move(self, gradient: Tensor, progress: float) -> None:
        slopes = self.learned.gradients(gradient, None, lambda piece, of_v: None)
        for adam, share, slope in zip(self.adams, self.shares, slopes, strict=False):
            assert slope is not None
            adam.step(slope * share * (1 - WHOLE * share), 1 - progress)
            adam.parameter.clamp_(max=BEGIN)

    def hard(self) -> Tensor:
        return self.values()

    def weight(self) -> Weight:
        values, grid = self._round()
        return stored(values, grid, self.quantizer, self.W)
