"""AWQ: input channels that carry much are scaled up in the weight, by a power of their mean magnitude that is searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError
from lowbit.philox import Key
from lowbit.transforms.loss import gram_loss
from lowbit.transforms.transform import Edge, Scaled, Transform

LIN = Source(
    "AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration",
    "Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan, Han",
    2024,
    "arXiv:2306.00978",
    parts="Eq. 4-5 (the scales and their search)",
    departs="The error is that of the layers that read the edge, from their Gram matrix; the released code takes the enclosing module's. "
    "Channels that share a source (grouped queries) share a scale, where the code leaves such edges out. The clip search is a scaling "
    "of its own (mse).",
)


@register("transform", "awq", LIN)
@dataclass(frozen=True)
class AWQ(Transform):
    """W_j s_j with s = mean|X|^a over sqrt(max s min s); the a of ``grid`` in [0, 1) with the least error of the layers' outputs.

    Args:
        grid: candidates for the exponent, 20 as in the released code; the first, 0, leaves the edge as it is.
    """

    grid: int = 20
    needs: ClassVar[tuple[str, ...]] = ("absmean", "gram")

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise DataError(f"awq:grid={self.grid}: take 1 candidate or more")

    def scales(self, edge: Edge, magnitude: Tensor) -> list[Tensor]:
        """The scales of each exponent."""
        found = []
        for i in range(self.grid):
            s = magnitude.double().clamp(min=1e-8) ** (i / self.grid)
            s = s.clamp(min=1e-4)
            found.append(edge.shared((s / (s.max() * s.min()).sqrt()).float()))
        return found

    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Scaled | None:
        if edge.producer is None:
            return None
        scales = self.scales(edge, stats["absmean"])
        losses = [gram_loss(edge, stats["gram"], Scaled(s)) for s in scales]
        best = int(torch.tensor(losses, dtype=torch.float64).argmin())
        return Scaled(scales[best]) if best else None
