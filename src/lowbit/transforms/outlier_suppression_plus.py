"""Outlier Suppression+: channels are shifted to their centre, and those that reach beyond a searched threshold are shrunk to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError
from lowbit.philox import Key
from lowbit.transforms.loss import output_loss
from lowbit.transforms.transform import Edge, Scaled, Transform

WEI = Source(
    "Outlier Suppression+: Accurate quantization of large language models by equivalent and optimal shifting and scaling",
    "Wei, Zhang, Li, Zhang, Gong, Guo, Liu",
    2023,
    "arXiv:2304.09145",
    parts="section 4.1 (shift), Eq. 6-8 (scale and threshold)",
    departs="The error is that of the layers that read the edge, not of the attention; thresholds are geometrically spaced. A shift that "
    "no norm with a bias of its own can absorb is computed in front of the layers.",
    records=("outlier-suppression-plus",),
)


@register("transform", "outlier_suppression_plus", WEI, aliases=("os_plus",))
@dataclass(frozen=True)
class OutlierSuppressionPlus(Transform):
    """x' = (x - z) / s with z_j = (max X_j + min X_j) / 2 and s_j = max(1, max|X_j - z_j| / t).

    Args:
        shift: whether channels are shifted.
        grid: thresholds t that are tried, from max|X - z| down to 1 or to the median channel's reach, whichever is smaller; the edge as
            it is is tried too.
    """

    shift: bool = True
    grid: int = 40
    needs: ClassVar[tuple[str, ...]] = ("extremes", "rows")
    absorbed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.grid < 2:
            raise DataError(f"outlier_suppression_plus:grid={self.grid}: take 2 thresholds or more")

    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Scaled | None:
        low, high = stats["extremes"]
        z = (low + high) / 2 if self.shift else torch.zeros_like(low)
        reach = torch.maximum(high - z, z - low)
        largest = float(reach.max())
        if largest == 0:
            return None
        least = min(1.0, float(reach.median())) or largest
        shift = z if self.shift else None
        tried = [Scaled(torch.ones_like(reach))]
        for i in range(self.grid):
            t = largest * (min(least, largest) / largest) ** (i / (self.grid - 1))
            tried.append(Scaled(edge.shared((reach / t).clamp(min=1.0)), shift))
        best = min(tried, key=lambda change: output_loss(edge, stats["rows"], change))
        return None if best is tried[0] else best
