"""BitStack: a weight as a stack of blocks of about one bit, signs times a low-rank magnitude."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import ShapeError
from lowbit.formats.minifloat import float16
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import cast
from lowbit.quantizers.weight import LowRank, Term, Weight
from lowbit.threads import one_thread

WANG = Source(
    "BitStack: Any-Size Compression of Large Language Models in Variable Memory Environments",
    "Wang et al.",
    2024,
    "arXiv:2410.23918",
    parts="absolute value decomposition into residual blocks, input scaling",
    departs="The residual is that of the factors as stored, so their rounding is made up for. The scaling of the inputs is undone in the "
    "right factor, so nothing is folded into other layers.",
    records=("bitstack",),
)
HALF = cast(float16)


@register("storage", "bitstack", WANG)
def stack(W: Tensor, blocks: int, rank: int = 16, s: Tensor | None = None, quantizer: Quantizer = HALF) -> Weight:
    """R = W diag(s), then repeat: S = sign(R), |R| ~ U V of the given rank by SVD, term S * (U V diag(1/s)), R <- R - term diag(s).

    Any prefix of the terms is a weight.

    Shapes:
        W   (out, in)
        s   (in,), positive: how much errors of each input weigh

    Args:
        blocks: how many terms, 16 in the paper.
        rank: 16 in the paper.
        quantizer: how the factors are stored, float16 in the paper.

    Raises:
        ShapeError: W is no matrix, or the rank does not fit it.
    """
    if W.ndim != 2 or not 1 <= rank <= min(W.shape) or blocks < 1:
        raise ShapeError(f"{blocks} blocks of rank {rank} for shape {tuple(W.shape)}; it takes a matrix and a rank up to its sides")
    weigh = torch.ones(W.shape[1], dtype=torch.float64) if s is None else s.double()
    rest = W.double() * weigh
    terms: list[Term] = []
    for _ in range(blocks):
        with one_thread():
            U, d, Vt = torch.linalg.svd(rest.abs(), full_matrices=False)
        root = d[:rank].sqrt()
        left, right = (U[:, :rank] * root).float(), (root[:, None] * Vt[:rank] / weigh).float()
        term = LowRank(quantizer.quantize(left), quantizer.quantize(right), (rest >= 0).to(torch.uint8), (quantizer, quantizer))
        terms.append(term)
        rest = rest - term.dequantize().double() * weigh
    return Weight(tuple(terms))
