"""A scaling turns blocks into scales. Try: lowbit --plugin my_scaling.py show "int4 row deviation:2.6"."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, finite_or_nan

SOURCE = Source("Scales from standard deviations", "Your Name", 2026, "unpublished", parts="the rule")


@register("scaling", "deviation", SOURCE)
@dataclass(frozen=True)
class Deviation(Rule):
    """scale = width * sqrt(mean(x^2)) / top; what lies beyond ``width`` deviations saturates."""

    name: ClassVar[str] = "deviation"
    width: float = 2.6

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        rms = blocks.double().square().mean(-1).sqrt().float()  # squares of large float32 numbers overflow
        return Affine(finite_or_nan(rms * self.width / torch.tensor(fmt.top, dtype=torch.float32)))
