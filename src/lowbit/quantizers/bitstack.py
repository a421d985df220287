"""BitStack: a weight as a stack of blocks of about one bit, signs times a low-rank magnitude."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import ShapeError
from lowbit.packing import pack
from lowbit.quantizers.weight import Weight

WANG = Source(
    "BitStack: Any-Size Compression of Large Language Models in Variable Memory Environments",
    "Wang et al.",
    2024,
    "arXiv:2410.23918",
    parts="section 2.2, residual blocks",
    departs="The residual is that of the float16 factors, so their rounding is made up for. Input scaling is the caller's.",
    records=("bitstack",),
)


@dataclass(frozen=True, eq=False)
class SignedLowRank:
    """sign * (left @ right), computed in float32.

    Shapes:
        sign    (out, in) uint8, 1 for numbers from zero up
        left    (out, rank) float16
        right   (rank, in) float16
    """

    sign: Tensor
    left: Tensor
    right: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.sign.shape)

    def dequantize(self) -> Tensor:
        """The matrix, float32."""
        return torch.where(self.sign > 0, 1.0, -1.0) * (self.left.float() @ self.right.float())

    def packed(self) -> dict[str, Tensor]:
        """One bit a sign, and the factors."""
        return {"sign": pack(self.sign, 1), "left": self.left.contiguous(), "right": self.right.contiguous()}


@register("storage", "bitstack", WANG)
def stack(W: Tensor, blocks: int, rank: int = 16) -> Weight:
    """Repeat: S = sign(R), A = |R| ~ U V of the given rank by SVD, R <- R - S * (U V). Any prefix of the terms is a weight.

    Shapes:
        W   (out, in); multiply its columns by the input norms first and divide after, as the paper does

    Args:
        blocks: how many terms, 1 to 16 in the paper.
        rank: 16 in the paper.

    Raises:
        ShapeError: W is no matrix, or the rank does not fit it.
    """
    if W.ndim != 2 or not 1 <= rank <= min(W.shape) or blocks < 1:
        raise ShapeError(f"{blocks} blocks of rank {rank} for shape {tuple(W.shape)}; it takes a matrix and a rank up to its sides")
    rest = W.double()
    terms = []
    for _ in range(blocks):
        U, s, Vt = torch.linalg.svd(rest.abs(), full_matrices=False)
        root = s[:rank].sqrt()
        term = SignedLowRank((rest >= 0).to(torch.uint8), (U[:, :rank] * root).half(), (root[:, None] * Vt[:rank]).half())
        terms.append(term)
        rest = rest - term.dequantize().double()
    return Weight(tuple(terms))  # type: ignore[arg-type]
