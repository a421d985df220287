"""REx: residuals of the rounded weight are quantized again, all rows of them or those with the largest ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lowbit.catalog import register
from lowbit.errors import DataError
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.rex import YVINEC, residuals, rows_kept
from lowbit.quantizers.weight import Weight
from lowbit.solvers.solver import Solver


@register("solver", "rex", YVINEC)
@dataclass(frozen=True)
class REx(Solver):
    """W = R_1 + .. + R_terms, each the quantizer's answer to what those before leave; see ``quantizers.rex``.

    Args:
        terms: how many, at least 1.
        share: of the rows that terms after the first keep, in (0, 1].

    Raises:
        DataError: a number that is outside of its range.
    """

    terms: int = 2
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.terms < 1 or not 0 < self.share <= 1:
            raise DataError(f"rex:terms={self.terms}:share={self.share:g}: at least 1 term, and a share in (0, 1]")

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        return residuals(W, [quantizer] * self.terms, self.share)

    def nbytes(self, quantizer: Quantizer, shape: tuple[int, ...]) -> int:
        """All terms, and the numbers of the rows where they are not all there."""
        kept = rows_kept(shape[0], self.share)
        further = quantizer.nbytes(shape) if self.share == 1 else quantizer.nbytes((kept, *shape[1:])) + 4 * kept
        return quantizer.nbytes(shape) + (self.terms - 1) * further
