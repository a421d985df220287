"""Round to nearest: every number goes to the code that its quantizer gives it. No data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lowbit import philox
from lowbit.catalog import Source, register
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.solvers.solver import Solver

GHOLAMI = Source(
    "A Survey of Quantization Methods for Efficient Neural Network Inference",
    "Gholami, Kim, Dong, Yao, Mahoney, Keutzer",
    2021,
    "arXiv:2103.13630",
    parts="section III (uniform and non-uniform quantization without data)",
    records=("survey-gholami",),
)


@register("solver", "rtn", GHOLAMI)
@dataclass(frozen=True)
class RTN(Solver):
    """W goes through the quantizer, with its own rounding; noise for stochastic ones comes from the key."""

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        noisy = getattr(getattr(quantizer, "rounding", None), "noisy", False)
        noise = philox.noise(key._replace(role="rounding"), tuple(W.shape), device=W.device) if noisy else None
        return Weight((quantizer.quantize(W, noise=noise),), (quantizer,))
