"""SignRound: how each weight is rounded and the range of each block are learned with the signs of gradients, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.quantizers.grid import Grid
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.solvers import neighbours, ranges
from lowbit.solvers.neighbours import Between, grid_of, pieces, stored
from lowbit.solvers.ranges import Learned
from lowbit.solvers.reconstruction import Reconstruction, Soft

CHENG = Source(
    "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs",
    "Cheng, Zhang, Shen, Cai, He, Lv, Liu",
    2023,
    "arXiv:2309.05516",
    parts="section 3: Eq. 3-6, signed gradient descent with a learning rate that falls linearly, the best parameters kept",
    departs="The best is looked for at the beginning and after 1/2, 3/4 and all of the steps, always on the same sequences; the released "
    "code compares the losses of different batches. Fewer steps of fewer sequences by default. Scales stay positive, and the smallest "
    "code of symmetric integers is used as rounding uses it. On tables the offset is in gaps between neighbours.",
    records=("signround",),
)

Learn = Literal["both", "rounding", "ranges"]
#: shares of a range below which it is not moved
NARROWEST = 0.05


@register("solver", "signround", CHENG, aliases=("autoround",))
@dataclass(frozen=True)
class SignRound(Reconstruction):
    """q = round(w / s + v), |v| <= 1/2, with s from a share of each block's range; v and the shares go 1/steps against their sign.

    The rate falls linearly to 0, so a parameter travels 1/2 at most: enough to round any weight the other way.

    Args:
        steps, batch, checks: see ``Reconstruction``.
        rate, range_rate: of the first step, of v and of the shares, in units of 1/steps.
        learn: ``both``, ``rounding`` (v alone; also on grids whose scales cannot be moved alone) or ``ranges``.

    Raises:
        UnsupportedError: a number outside of its range, or a quantizer without one table or, for ranges, without a scale to move.
    """

    rate: float = 1.0
    range_rate: float = 1.0
    learn: Learn = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learn not in ("both", "rounding", "ranges") or not self.rate > 0 or not self.range_rate > 0:
            raise UnsupportedError(f"signround:learn={self.learn}:rate={self.rate:g}: learn is both, rounding or ranges, the rates above 0")

    def soft(self, W: Tensor, quantizer: Quantizer, start: Weight) -> Soft:
        stand_in, grid = grid_of(W, quantizer, start)
        if self.learn == "rounding":
            return Rounded(W, stand_in, grid, quantizer, self.rate / self.steps)
        rates = (self.rate / self.steps if self.learn == "both" else 0.0, self.range_rate / self.steps)
        return RoundedInRange(W, stand_in, grid, quantizer, rates)

    def refuses(self, quantizer: Quantizer) -> str | None:
        reason = neighbours.refusal(quantizer, "signround")
        if reason is None and self.learn != "rounding":
            reason = ranges.refusal(quantizer, "signround")
            reason = None if reason is None else f"{reason}; write signround:learn=rounding"
        return reason


class Rounded(Soft):
    """On a fixed grid: the upper neighbour where place + v >= 1/2."""

    def __init__(self, W: Tensor, stand_in: Tensor, grid: Grid, quantizer: Quantizer, rate: float) -> None:
        self.W, self.grid, self.quantizer, self.rate = W, grid, quantizer, rate
        self.between = Between.of(stand_in, grid)
        self.v = torch.zeros_like(self.between.place)
        self.out = torch.empty_like(self.v)
        self.parameters = (self.v,)

    def values(self) -> Tensor:
        low, gap, place = self.between
        for i in pieces(self.v):
            torch.addcmul(low[i], (place[i] + self.v[i] >= 0.5).float(), gap[i], out=self.out[i])
        return self.out

    def move(self, gradient: Tensor, progress: float) -> None:
        for i in pieces(self.v):
            held = (self.between.place[i] + self.v[i]).sub_(0.5).abs_() > 1
            self.v[i].add_(gradient[i].sign_().masked_fill_(held, 0), alpha=-self.rate * (1 - progress))

    def hard(self) -> Tensor:
        return self.values()

    def weight(self) -> Weight:
        return stored(self.values(), self.grid, self.quantizer, self.W)


class RoundedInRange(Soft):
    """With the range of each block learned too, or alone."""

    def __init__(self, W: Tensor, stand_in: Tensor, grid: Grid, quantizer: Quantizer, rates: tuple[float, float]) -> None:
        self.W, self.quantizer = W, quantizer
        self.rate, self.range_rate = rates
        self.learned = Learned(stand_in, grid)
        self.v = torch.zeros_like(self.learned.x) if self.rate else None
        shares = [torch.ones_like(self.learned.scale0) for _ in range(1 if self.learned.ends is None else 2)]
        self.high, self.low = shares[0], shares[1] if len(shares) > 1 else None
        self.parameters = tuple(p for p in (self.high, self.low, self.v) if p is not None)

    def values(self) -> Tensor:
        return self.learned.round(self.high, self.low, self.v)[0]

    def move(self, gradient: Tensor, progress: float) -> None:
        def take(piece: slice, of_v: Tensor) -> None:
            if self.v is not None:
                self.v[piece].add_(of_v.sign_(), alpha=-self.rate * (1 - progress))

        slopes = self.learned.gradients(gradient, self.v, take)
        for share, slope in zip((self.high, self.low), slopes, strict=True):
            if share is not None and slope is not None:
                share.add_(slope.sign_(), alpha=-self.range_rate * (1 - progress)).clamp_(NARROWEST, 1)

    def hard(self) -> Tensor:
        return self.values()

    def weight(self) -> Weight:
        values, grid = self.learned.round(self.high, self.low, self.v)
        return stored(values, grid, self.quantizer, self.W)
