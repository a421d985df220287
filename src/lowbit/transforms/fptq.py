"""FPTQ: inputs are evened out by the logarithm of their range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError
from lowbit.philox import Key
from lowbit.transforms.transform import Edge, Scaled, Transform

LI = Source(
    "FPTQ: Fine-grained Post-Training Quantization for Large Language Models",
    "Li, Zhang, Li, Yao, Zhang, Chu, Sun, Du, Xie",
    2023,
    "arXiv:2308.15987",
    parts="Eq. 6 (logarithmic activation equalization), section 3.3 (where)",
    departs="The choice between static and dynamic inputs is the user's; here stands the equalization alone.",
    records=("fptq",),
)

#: channels whose largest magnitude is below this keep their scale
LEAST = 1e-5


@register("transform", "fptq", LI)
@dataclass(frozen=True)
class FPTQ(Transform):
    """s_j = max|X_j| / log2(2 + max|X_j|), where the largest magnitude of the edge lies between two bounds.

    Args:
        low, high: absolute bounds; with smaller inputs nothing is needed, with larger ones it does not help.
    """

    low: float = 15.0
    high: float = 150.0
    needs: ClassVar[tuple[str, ...]] = ("absmax",)

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise DataError(f"fptq:low={self.low}:high={self.high}: 0 <= low < high; low=0:high=inf serves every edge")

    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Scaled | None:
        reach = stats["absmax"].double()
        if not self.low < float(reach.max()) < self.high:
            return None
        s = torch.where(reach < LEAST, 1.0, reach / torch.log2(2 + reach))
        return Scaled(edge.shared(s.float()))
