"""BitStack: a stack of signs times low-rank magnitudes, weighed by the size of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lowbit.catalog import register
from lowbit.errors import DataError
from lowbit.packing import packed_nbytes
from lowbit.philox import Key
from lowbit.quantizers.bitstack import WANG, stack
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.solvers.solver import Solver


@register("solver", "bitstack", WANG)
@dataclass(frozen=True)
class BitStack(Solver):
    """``blocks`` terms of a bit a weight and two factors each; the quantizer is that of the factors (float16 in the paper).

    Args:
        blocks: how many, at least 1.
        rank: of the factors; at most the shorter side of the weight is used.

    Raises:
        DataError: a number below 1.
    """

    blocks: int = 3
    rank: int = 16
    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.rank < 1:
            raise DataError(f"bitstack:blocks={self.blocks}:rank={self.rank}: both are at least 1")

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        size = stats["gram"].diagonal().sqrt()
        size = size + 1e-3 * size.mean()  # inputs that are always zero keep a little weight
        return stack(W, self.blocks, min(self.rank, *W.shape), size if float(size.mean()) > 0 else None, quantizer)

    def nbytes(self, quantizer: Quantizer, shape: tuple[int, ...]) -> int:
        """Of each block the signs, both factors and the rank."""
        out, n = shape
        rank = min(self.rank, out, n)
        return self.blocks * (packed_nbytes(out * n, 1) + quantizer.nbytes((out, rank)) + quantizer.nbytes((rank, n)) + 4)
