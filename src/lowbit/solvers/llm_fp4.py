"""LLM-FP4's search: each row of a weight gets the range, and the weight the layout, with the least error of the layer's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.best import Best, BestTensor
from lowbit.quantizers.grid import QTensor
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme, mixed
from lowbit.quantizers.weight import Weight
from lowbit.scaling.scaling import fixed_sum
from lowbit.solvers.solver import Solver
from lowbit.threads import one_thread

LIU = Source(
    "LLM-FP4: 4-Bit Floating-Point Quantized Transformers",
    "Liu, Liu, Huang, Dong, Cheng",
    2023,
    "arXiv:2310.16836",
    parts="the search of layout and bias for weights, by the squared error of the layer's output on calibration data",
    departs="Ranges are those that the quantizer's rule offers, in equal steps of the range and not of the bias. Weights are searched "
    "against inputs in full precision, once; the paper alternates three rounds with the inputs' own bias and layout.",
    records=("llm-fp4",),
)


@register("solver", "llm_fp4", LIU)
@dataclass(frozen=True)
class LLMFP4(Solver):
    """Row by row argmin over ranges of (w - q) H (w - q)^T, then argmin over layouts of the sum of all rows.

    With H = X^T X that is the squared error of the outputs on the calibration data. The quantizer offers the ranges: ``hq_dit``,
    ``e2m1 row mse:0.3:100:1.2``, or several layouts, ``best(e2m1 row mse;e1m2f row mse)``.

    Raises:
        UnsupportedError: the quantizer offers one range only, or ranges of anything but whole rows.
    """

    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        options = quantizer.options if isinstance(quantizer, Best) else (quantizer,)
        with one_thread():
            found = [_searched(W.float(), option, stats["gram"]) for option in options]
        k = min(range(len(found)), key=lambda i: found[i][1])  # of equals the first
        q = found[k][0]
        return Weight((BestTensor(q.codes, q.grid, k) if isinstance(quantizer, Best) else q,), (quantizer,))


def _searched(W: Tensor, option: Quantizer, H: Tensor) -> tuple[QTensor, float]:
    """The weight with the best range of each row, and the squared error of its outputs."""
    if type(option) is not Scheme or option.blocks.counts(tuple(W.shape)) != (len(W), 1):
        raise UnsupportedError(f"llm_fp4 searches the range of whole rows, {option} has others; use e2m1 row mse for instance")
    grids = option.grids(W)
    if len(grids) == 1:
        raise UnsupportedError(f"llm_fp4 searches among ranges, the rule {option.scaling} offers one; use mse")
    least, chosen = torch.full((len(W),), torch.inf, dtype=torch.float64), torch.zeros(len(W), dtype=torch.int64)
    for k, grid in enumerate(grids):
        error = (grid.choose(W).dequantize() - W).double()
        lost = fixed_sum((error @ H.double()) * error)
        better = lost < least
        least, chosen = torch.where(better, lost, least), chosen.masked_fill(better, k)
    q = mixed(grids, chosen.unsqueeze(1)).choose(W, option.rounding)
    return q, float(fixed_sum(least))
