"""LLM-FP4's pre-shifted exponent bias: powers of two between channels of the inputs move into the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError
from lowbit.philox import Key
from lowbit.transforms.transform import Edge, Scaled, Transform

LIU = Source(
    "LLM-FP4: 4-Bit Floating-Point Quantized Transformers",
    "Liu, Liu, Huang, Dong, Cheng",
    2023,
    "arXiv:2310.16836",
    parts="section 3.3, Eq. 10-13 (the pre-shifted exponent bias)",
    departs="Weights are quantized after the shift, as a kernel must; the released code quantizes them before it. Biases are those of the "
    "largest magnitudes; the search over formats and ranges is the scaling llm_fp4.",
    records=("llm-fp4",),
)


@register("transform", "llm_fp4", LIU)
@dataclass(frozen=True)
class LLMFP4(Transform):
    """s_j = 2^-n_j with n_j = clip(round(b_j), round(rho), round(rho) + 2^E - 1) - round(rho), rho = min b.

    b_j = 2^E - 1 + log2(2 - 2^-M) - log2(max|X_j|) is the bias with which the largest number of the format is the largest input. Scales
    are exact powers of two, so nothing is rounded when they are absorbed.

    Args:
        exponent_bits, mantissa_bits: E and M of the inputs' format.
    """

    exponent_bits: int = 2
    mantissa_bits: int = 1
    needs: ClassVar[tuple[str, ...]] = ("absmax",)

    def __post_init__(self) -> None:
        if not 1 <= self.exponent_bits <= 8 or not 0 <= self.mantissa_bits <= 10:
            where = f"llm_fp4:exponent_bits={self.exponent_bits}:mantissa_bits={self.mantissa_bits}"
            raise DataError(f"{where}: 1 to 8 exponent bits, 0 to 10 mantissa bits")

    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Scaled | None:
        reach = stats["absmax"].double()
        if float(reach.max()) == 0:
            return None
        b = self.rounded_bias(torch.where(reach == 0, reach.max(), reach))
        n = b.clamp(max=int(b.min()) + (1 << self.exponent_bits) - 1) - int(b.min())
        if edge.classes is not None:  # channels of one source: the smallest shift serves all
            least = torch.full((int(edge.classes.max()) + 1,), int(n.max()), dtype=n.dtype)
            n = least.scatter_reduce(0, edge.classes, n.cpu(), "amin")[edge.classes].to(n.device)
        return Scaled(torch.ldexp(torch.ones_like(n, dtype=torch.float32), -n))

    def rounded_bias(self, reach: Tensor) -> Tensor:
        """round(b) for largest magnitudes (channels,), read from the exponents and mantissas of the numbers."""
        m, e = torch.frexp(reach)
        constant = (1 << self.exponent_bits) - 1 + math.log2(2 - 2.0**-self.mantissa_bits) + 0.5
        whole = math.floor(constant)
        return whole - e.long() + (m <= 2.0 ** (constant - whole - 1)).long()
