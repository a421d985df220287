"""REx: a weight as a sum of quantized residuals, each with its own scales."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import ShapeError
from lowbit.quantizers.grid import QTensor
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Indexed, Term, Weight

YVINEC = Source(
    "REx: Data-Free Residual Quantization Error Expansion",
    "Yvinec, Dapogny, Cord, Bailly",
    2022,
    "arXiv:2203.14645",
    parts="the residual expansion and its group sparsity",
    departs="The share of rows is given, not found from a budget over layers.",
    records=("rex",),
)


@register("storage", "rex", YVINEC)
def residuals(W: Tensor, quantizers: list[Quantizer], share: float = 1.0) -> Weight:
    """R_k = Q_k(W - R_1 - ... - R_{k-1}); the weight is their sum.

    With one symmetric b-bit absmax quantizer repeated K times |W - sum R_k| <= s_1 / 2 * (2**b - 2)**-(K-1).

    Shapes:
        W       (out, in)

    Args:
        quantizers: one a term.
        share: of the rows that terms after the first keep, those with the largest residual; in (0, 1].

    Raises:
        ShapeError: no quantizer, or a share outside of (0, 1].
    """
    if not quantizers or not 0 < share <= 1:
        raise ShapeError(f"{len(quantizers)} terms and a share of {share:g}; there is at least one term, and the share is in (0, 1]")
    rest = W.float()
    terms: list[Term] = []
    for quantizer in quantizers:
        if not terms or share == 1:
            q = quantizer.quantize(rest)
            terms.append(q)
            rest = rest - q.dequantize()
            continue
        index = rest.double().square().sum(1).topk(rows_kept(len(W), share)).indices.sort().values
        q = quantizer.quantize(rest[index])
        terms.append(Indexed(index, q, 0, tuple(W.shape), quantizer))
        rest = rest.index_put((index,), rest[index] - q.dequantize())
    return Weight(tuple(terms), tuple(q if isinstance(t, QTensor) else None for t, q in zip(terms, quantizers, strict=True)))


def rows_kept(rows: int, share: float) -> int:
    """How many rows a share is, at least one."""
    return max(1, round(share * rows))


def error_bound(first: QTensor, bits: int, terms: int) -> float:
    """The largest error that ``terms`` symmetric terms of ``bits`` bits can leave, given the first one's scales."""
    scale = first.grid.scale
    dense = scale.dequantize() if isinstance(scale, QTensor) else scale
    assert dense is not None
    return float(torch.as_tensor(dense).max()) / 2 / (2**bits - 2) ** (terms - 1)
