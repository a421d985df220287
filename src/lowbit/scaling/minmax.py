"""Minmax: the range of a block, widened to hold zero, is spread over all codes of an integer format, with a zero point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, step

JACOB = Source(
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    "Jacob et al.",
    2017,
    "arXiv:1712.05877",
    parts="section 2.1 and Eq. 13",
    records=("integer-arithmetic-only", "whitepaper-qat"),
)


@register("scaling", "minmax", JACOB)
@dataclass(frozen=True)
class MinMax(Rule):
    """scale = (hi - lo) / (levels - 1), zero = round(min - lo / scale), with lo = min(x, 0) and hi = max(x, 0).

    Raises:
        UnsupportedError: the format is not a run of integers.
    """

    name: ClassVar[str] = "minmax"

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        if fmt.max - fmt.min != fmt.levels - 1 or fmt.min != int(fmt.min):
            raise UnsupportedError(f"minmax needs a format of consecutive integers, {fmt.name} is none; use absmax, or uint4")
        if blocks.shape[-1] == 0:
            nothing = blocks.new_zeros(blocks.shape[:-1])
            return Affine(nothing, zero=nothing)
        low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
        scale = step(low, high, fmt.levels - 1)
        zero = (fmt.min - low / scale).round().nan_to_num(0.0, 0.0, 0.0).clamp(fmt.min, fmt.max)
        return Affine(scale, zero=zero)


minmax = MinMax()
