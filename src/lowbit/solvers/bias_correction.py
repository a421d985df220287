"""Bias correction: what quantization shifts on average is given back in the bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.solvers.block_solver import BlockSolver
from lowbit.solvers.rtn import RTN
from lowbit.solvers.solver import Solver

NAGEL = Source(
    "Data-Free Quantization Through Weight Equalization and Bias Correction",
    "Nagel, van Baalen, Blankevoort, Welling",
    2019,
    "arXiv:1906.04721",
    parts="section 4.2, Eq. 17-19; the means are measured, as in appendix D",
)


@register("solver", "bias_correction", NAGEL)
@dataclass(frozen=True)
class BiasCorrection(Solver):
    """b' = b + (W - Q) E[x], x as the quantized model sees it; layers without a bias get one.

    Args:
        inner: the solver of the weight.

    Raises:
        UnsupportedError: a solver inside that solves whole blocks, or compares two streams, both of which would see the new bias.
    """

    inner: Solver = RTN()

    def __post_init__(self) -> None:
        if isinstance(self.inner, BlockSolver) or self.inner.two_streams:
            raise UnsupportedError("bias_correction corrects what a solver of single weights on one stream leaves; take rtn or gptq inside")

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys((*self.inner.needs, "moments")))

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        return self.inner.solve(W, quantizer, stats, key)

    def nbytes(self, quantizer: Quantizer, shape: tuple[int, ...]) -> int:
        return self.inner.nbytes(quantizer, shape)

    def bias(self, W: Tensor, Q: Tensor, stats: Mapping[str, Tensor]) -> Tensor:
        mean = stats["moments"][0]
        return ((W.double() - Q.double()) @ mean.to(W.device)).float()
