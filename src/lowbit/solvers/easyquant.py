"""EasyQuant: only scales are searched; each row takes the one with which its outputs point most nearly where they did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError, ShapeError, UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.solvers.neighbours import grid_of, stored
from lowbit.solvers.ranges import Learned, refusal
from lowbit.solvers.rtn import RTN
from lowbit.solvers.solver import Solver

WU = Source(
    "EasyQuant: Post-training Quantization via Scale Optimization",
    "Wu, Tang, Zhao, Zhang, Fu, Zhang",
    2020,
    "arXiv:2006.16669",
    parts="section 3.3, Eq. 5-6 (the search of the weights' scales)",
    departs="Scales of the inputs are not searched in turn. In groups all scales of a row are moved together. The scale that was there is "
    "a candidate too, so that no row gets worse.",
    records=("easyquant",),
)


@register("solver", "easyquant", WU)
@dataclass(frozen=True)
class EasyQuant(Solver):
    """argmax over S of cos(w x, q_S x) for each row, S between two multiples of the reciprocal scale.

    cos = w H q^T / sqrt(w H w^T q H q^T) from the Gram matrix H.

    Args:
        low, high: of the interval, in units of the reciprocal of the scale that the quantizer gives.
        steps: candidates in equal distances.

    Raises:
        DataError: no interval, or no candidate.
    """

    low: float = 0.5
    high: float = 2.0
    steps: int = 100
    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high or self.steps < 2:
            raise DataError(f"easyquant:low={self.low}:high={self.high}:steps={self.steps}: 0 < low < high, 2 steps or more")

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        H = stats["gram"]
        if tuple(H.shape) != (W.shape[1], W.shape[1]):
            raise ShapeError(f"gram is {tuple(H.shape)}, but W has {W.shape[1]} inputs")
        reason = refusal(quantizer, "easyquant")
        if reason is not None:
            raise UnsupportedError(f"{reason}; take the solver rtn")
        W = W.detach().float()
        _, grid = grid_of(W, quantizer, RTN().solve(W, quantizer, {}, key))
        learned = Learned(W, grid)
        if learned.ends is not None or learned.scale0.shape[0] != len(W):
            raise UnsupportedError(
                "easyquant searches one scale a row, or those of its groups together, without zero points; take the solver rtn"
            )
        pulled = W @ H.float()
        best, chosen = torch.full((len(W),), -torch.inf, dtype=torch.float64, device=W.device), torch.ones(len(W), device=W.device)
        for multiple in [1.0, *torch.linspace(self.low, self.high, self.steps).tolist()]:
            Q, _ = learned.round(torch.full_like(learned.scale0, 1 / multiple), None, None)
            size = ((Q @ H.float()) * Q).sum(1, dtype=torch.float64).clamp(min=1e-300).sqrt()
            cosine = (pulled * Q).sum(1, dtype=torch.float64) / size
            better = cosine > best
            best, chosen = torch.where(better, cosine, best), torch.where(better, 1 / multiple, chosen)
        shares = chosen.reshape(-1, *[1] * (learned.scale0.ndim - 1)).expand_as(learned.scale0)
        Q, grid = learned.round(shares, None, None)
        return stored(Q, grid, quantizer, W)
