"""MSE: several shares of the absmax scale are tried, and the one with the least squared error is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.absmax import absmax
from lowbit.scaling.scaling import Affine, Rule

GPTQ_CODE = Source(
    "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    "Frantar, Ashkboos, Hoefler, Alistarh",
    2022,
    "arXiv:2210.17323",
    parts="the grid search over clipped ranges of the released quantizer",
    departs="Squared error (not the power 2.4), weighted by importance when there is one; candidates are compared as stored.",
)


@register("scaling", "mse", GPTQ_CODE)
@dataclass(frozen=True)
class MSE(Rule):
    """scale = share * absmax scale, the share in equal steps from ``highest`` down to ``lowest``.

    Args:
        lowest: the smallest share, in (0, 1).
        steps: how many shares are tried.
        highest: the largest share, 1 or more; above 1 the end of the format stays free, which helps where its last gap is wide.
    """

    name: ClassVar[str] = "mse"
    lowest: float = 0.3
    steps: int = 29
    highest: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.lowest < 1 or self.steps < 2 or not 1 <= self.highest <= 16:
            raise UnsupportedError(f"{self}: the lowest share is in (0, 1), the highest in [1, 16], and at least 2 steps are taken")

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> list[Affine]:
        first = absmax(blocks, fmt, importance)
        return [a._replace(scale=a.scale * share) for share in self.shares for a in (first if isinstance(first, list) else [first])]

    @property
    def shares(self) -> list[float]:
        """What is tried, the largest first."""
        return torch.linspace(self.highest, self.lowest, self.steps, dtype=torch.float64).tolist()  # type: ignore[no-any-return]


mse = MSE()
