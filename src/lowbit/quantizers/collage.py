"""Collage's multi-component floats: a number as an unevaluated sum of bfloat16 numbers of falling size."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import ShapeError, UnsupportedError
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
    parts="multi-component floats; Grow (addition of a float) and Mul (product of two components by two)",
    departs="Knuth's two-sum in place of Dekker's, so |x| >= |a| is not needed. Products are exact in a wider float in place of a fused "
    "multiply-add.",
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


def two_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """RN(a * b) and what it lost, exact in the dtype of a and b away from underflow.

    Raises:
        UnsupportedError: float64, which has no wider float here.
    """
    wider = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}.get(a.dtype)
    if wider is None or a.dtype != b.dtype:
        raise UnsupportedError(f"the exact product of {a.dtype} and {b.dtype}; it takes two of float32, bfloat16 or float16")
    exact = a.to(wider) * b.to(wider)
    p = exact.to(a.dtype)
    return p, (exact - p.to(wider)).to(a.dtype)


def multiply(v: Tensor, dv: Tensor, b: Tensor, db: Tensor) -> tuple[Tensor, Tensor]:
    """(v + dv) * (b + db) as two components; dv * db, which is smaller than what is kept, is left out."""
    p, lost = two_product(v, b)
    return two_sum(p, v * db + dv * b + lost)
