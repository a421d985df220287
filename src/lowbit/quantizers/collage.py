"""Collage's multi-component floats: a number as an unevaluated sum of bfloat16 numbers of falling size."""

from __future__ import annotations

from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import ShapeError
from lowbit.formats.format import Format
from lowbit.formats.minifloat import bfloat16
from lowbit.quantizers.rex import residuals
from lowbit.quantizers.scheme import cast
from lowbit.quantizers.weight import Weight

YU = Source(
    "Collage: Light-Weight Low-Precision Strategy for LLM Training",
    "Yu et al.",
    2024,
    "arXiv:2405.03637",
    parts="section 3.1 (multi-component floats), algorithm 1 (Grow)",
    departs="Knuth's two-sum in place of Dekker's, so |x| >= |a| is not needed.",
    records=("collage",),
)


@register("storage", "collage", YU)
def components(x: Tensor, count: int = 2, fmt: Format = bfloat16) -> Weight:
    """``count`` terms of a format without scales: each is what the ones before leave, rounded to nearest.

    Two bfloat16 components of a float32 number x leave at most 2**-18 |x|, three leave nothing (away from underflow).

    Raises:
        ShapeError: fewer than one component.
    """
    if count < 1:
        raise ShapeError(f"{count} components; there is at least one")
    return residuals(x, [cast(fmt)] * count)


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """RN(a + b) and what it lost, exact in the dtype of a and b, whichever is larger (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def grow(x: Tensor, dx: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """(x + dx) + a as two components: the sum of the leading parts, its loss added to dx, and both made disjoint again."""
    s, lost = two_sum(x, a)
    return two_sum(s, dx + lost)
