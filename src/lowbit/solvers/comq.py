"""COMQ: each weight in turn is set to the number of the grid that is best while all others stay, in several sweeps. No gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError, ShapeError, UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.grid import Grid, QTensor
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.spec import text
from lowbit.quantizers.weight import Weight
from lowbit.solvers.columns import RoundColumn, rounders
from lowbit.solvers.neighbours import stored
from lowbit.solvers.refit import check_refittable, refit
from lowbit.solvers.rtn import RTN
from lowbit.solvers.solver import Solver
from lowbit.threads import one_thread

ZHANG = Source(
    "COMQ: A Backpropagation-Free Algorithm for Post-Training Quantization",
    "Zhang, Yang, Wang, Yin",
    2024,
    "arXiv:2403.07134",
    parts="Alg. 1 and 2 by way of the Gram matrix; refit=true refits the scales after each sweep",
    departs="One order for all rows, by the size of a column times that of its input, so that rows share their products. Any grid, and any "
    "start: with one of another solver the sweeps go on from its codes.",
    records=("comq",),
)

Order = Literal["size", "none"]
#: columns whose changes are gathered in one product
BATCH = 128


@register("solver", "comq", ZHANG)
@dataclass(frozen=True)
class COMQ(Solver):
    """q_j = round(w_j + sum_{k != j} H_jk (w_k - q_k) / H_jj), column after column; ||(W - Q) X||^2 never rises after the first sweep.

    Args:
        start: ``rtn`` begins with the weights themselves on the quantizer's grid, as in the paper; another one with its codes and grid.
        sweeps: over all columns, at least 1.
        order: ``size``, by falling ||w_j|| ||x_j||, or ``none``, left to right.
        refit: fit the scales of groups anew after each sweep (see ``refit``).

    Raises:
        DataError: a number outside of its range.
        UnsupportedError: a start that needs more than the Gram matrix, or gives more than one tensor.
        ShapeError: the Gram matrix does not fit the weight.
    """

    start: Solver = RTN()
    sweeps: int = 3
    order: Order = "size"
    refit: bool = False
    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def __post_init__(self) -> None:
        if self.sweeps < 1 or self.order not in ("size", "none"):
            raise DataError(f"comq:sweeps={self.sweeps}:order={self.order}: at least 1 sweep, in the order size or none")
        if self.start.calibrated and set(self.start.needs) != {"gram"}:
            raise UnsupportedError("comq starts from a solver that needs the Gram matrix at most, gptq for instance; write qep:inner=comq")

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        H = stats["gram"]
        if tuple(H.shape) != (W.shape[1], W.shape[1]):
            raise ShapeError(f"gram is {tuple(H.shape)}, but W has {W.shape[1]} inputs")
        W = W.detach().float()
        begun = self.start.solve(W, quantizer, stats, key)
        term = begun.terms[0]
        if len(begun.terms) != 1 or not isinstance(term, QTensor) or type(term.grid) is not Grid:
            raise UnsupportedError(f"comq rounds single numbers, and {text(quantizer)} holds none; take the solver rtn")
        if self.refit:
            check_refittable(term.grid)
        q = QTensor(term.codes, replace(term.grid, overflow="saturate"))
        Q = W if type(self.start) is RTN else q.dequantize()
        perm = torch.arange(len(H), device=W.device)
        if self.order == "size":
            perm = (W.double().square().sum(0) * H.diagonal()).argsort(descending=True, stable=True)
        for _ in range(self.sweeps):
            q = q.grid.choose(swept(W, Q, H, rounders(q.grid), perm))
            if self.refit:
                q = refit(W, q, H)
            Q = q.dequantize()
        return stored(Q, term.grid if q.grid.scale is term.grid.scale else q.grid, quantizer, W)


def swept(W: Tensor, Q: Tensor, H: Tensor, rounder: Callable[[int], RoundColumn], perm: Tensor) -> Tensor:
    """One sweep: Q with each column in turn set to what is best given the others as they are then.

    Shapes:
        W, Q    (out, in) float32
        H       (in, in) float64
        perm    (in,) the order of the columns
    """
    with one_thread():
        G = H[perm][:, perm].float()
        diagonal, places = G.diagonal().tolist(), perm.tolist()
        weights = W.mT[perm].contiguous()
        left = (W - Q).mT[perm].contiguous()  # what each column still lacks
        for first in range(0, len(G), BATCH):
            last = min(first + BATCH, len(G))
            pull = G[first:last] @ left
            for j in range(first, last):
                own = diagonal[j]
                best = weights[j] + pull[j - first] / own - left[j] if own > 0 else weights[j]
                change = weights[j] - rounder(places[j])(best) - left[j]
                left[j] += change
                if own > 0 and j + 1 < last:
                    pull[j + 1 - first :].addr_(G[j, j + 1 : last], change)
    out = torch.empty_like(W)
    out[:, perm] = (weights - left).mT
    return out
