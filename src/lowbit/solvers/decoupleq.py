"""decoupleQ: codes and scales in turn, each the best for the other as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError, ShapeError, UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.grid import Grid, QTensor
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.solvers.gptq import on_grid
from lowbit.solvers.neighbours import stored
from lowbit.solvers.refit import check_refittable, lost, refit
from lowbit.solvers.solver import Solver

GUO = Source(
    "decoupleQ: Towards 2-bit Post-Training Uniform Quantization via decoupling Parameters into Integer and Floating Points",
    "Guo et al.",
    2024,
    "arXiv:2404.12759",
    parts="the layer-wise stage: Alg. 1 with the codes by GPTQ, scales and offsets by least squares",
    departs="New codes of a row are taken only where they lose less, as its scales are. Without offsets (int4 g64) only scales are fitted; "
    "write 'int2 g64 hqq offset=float16' for both. Without the training of scales and norms over blocks; see signround:learn=ranges.",
    records=("decoupleq",),
)


@register("solver", "decoupleq", GUO)
@dataclass(frozen=True)
class DecoupleQ(Solver):
    """min over codes t, scales s, offsets o of ||(W - s t - o) X||^2: codes by GPTQ for s and o, then s and o for the codes, again.

    The damped loss never rises from one step to the next.

    Args:
        iterations: of both steps, at least 1.
        damping: of the Gram matrix in all parts, as a share of its mean diagonal, above 0.

    Raises:
        DataError: a number outside of its range.
        UnsupportedError: a quantizer whose scales do not belong to groups of a row.
    """

    iterations: int = 4
    damping: float = 0.01
    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.damping > 0:
            raise DataError(f"decoupleq:iterations={self.iterations}:damping={self.damping:g}: at least 1 iteration, a damping above 0")

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        H = stats["gram"]
        if tuple(H.shape) != (W.shape[1], W.shape[1]):
            raise ShapeError(f"gram is {tuple(H.shape)}, but W has {W.shape[1]} inputs")
        W = W.detach().float()
        grid = quantizer.grid(W)
        if type(grid) is not Grid:
            raise UnsupportedError(f"decoupleq fits scales, which a {type(grid).__name__} does not have; take the solver rtn")
        check_refittable(grid)
        damped = H.clone()
        damped.diagonal().add_(self.damping * H.diagonal().mean().clamp(min=1e-300))
        q = replace(grid, overflow="saturate").choose(W)
        for _ in range(self.iterations):
            found = on_grid(W, q.grid, H, self.damping)
            better = lost(W, found.dequantize(), damped) < lost(W, q.dequantize(), damped)
            q = refit(W, QTensor(torch.where(better[:, None], found.codes, q.codes), q.grid), damped)
        return stored(q.dequantize(), q.grid, quantizer, W)
