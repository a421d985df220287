"""What is known of a solved layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.quantizers.weight import Weight
from lowbit.recipes.plan import LayerPlan


@dataclass(frozen=True)
class Solved:
    """One solved layer.

    Attributes:
        error: ||W - Q||^2 / ||W||^2, a share.
        output_error: ||(W - Q) X||^2 / ||W X||^2 on the calibration data, where that is known.
    """

    layer: LayerPlan
    weight: Weight
    error: float
    output_error: float | None = None

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise of the weight, in dB."""
        return float("inf") if self.error == 0 else float(-10 * torch.log10(torch.tensor(self.error, dtype=torch.float64)))


def relative_error(W: Tensor, Q: Tensor) -> float:
    """||W - Q||^2 / ||W||^2 in float32 sums."""
    W = W.float()
    return float((W - Q).square().sum() / W.square().sum().clamp(min=torch.finfo(torch.float32).tiny))
