"""Absmax: the largest magnitude of a block becomes the largest number of the format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, amax, divided

WU = Source(
    "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation",
    "Wu, Judd, Zhang, Isaev, Micikevicius",
    2020,
    "arXiv:2004.09602",
    parts="section 3.1.2 (scale quantization), max calibration",
    departs="The scale divides (q = round(x / s)); an all-zero block gets scale 0.",
    records=("int8-principles",),
)


@register("scaling", "absmax", WU)
@dataclass(frozen=True)
class Absmax(Rule):
    """scale = max|x| / top, one float32 division.

    Args:
        top: the number that the largest magnitude is mapped to; by default the format's own (7 for int4, 6 for e2m1).
            ``absmax:7.5`` is what several libraries do for int4.

    Raises:
        UnsupportedError: top is not a positive number.
    """

    name: ClassVar[str] = "absmax"
    top: float | None = None

    def __post_init__(self) -> None:
        if self.top is not None and not 1e-38 < self.top < 3e38:
            raise UnsupportedError(f"absmax:{self.top:g}: the number that the largest magnitude is mapped to is positive, 7 for instance")

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine | list[Affine]:
        largest = amax(blocks)
        tops = getattr(fmt, "tops", lambda: (fmt.top,))() if self.top is None else (self.top,)
        if len(tops) == 1:
            return Affine(divided(largest, tops[0]))
        return [Affine(divided(largest, top), table=torch.full_like(largest, k, dtype=torch.int64)) for k, top in enumerate(tops)]


absmax = Absmax()
