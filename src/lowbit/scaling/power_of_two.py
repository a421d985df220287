"""Scales that are powers of two, by the four rules in use for MX blocks. Exponents are read from the bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, amax

OCP_MX = Source(
    "OCP Microscaling Formats (MX) Specification v1.0",
    "Open Compute Project",
    2023,
    "OCP MX v1.0",
    parts="6.3 (floor)",
    departs="A block with a NaN or an Inf has a NaN scale; exponents are held to -127..127.",
)
RCEIL = Source(
    "Recipes for Pre-training LLMs with MXFP8",
    "Mishra, Stosic, Layton, Micikevicius",
    2025,
    "arXiv:2506.08027",
    parts="section 3.1 (the scale is rounded up so that no block maximum overflows)",
    departs="The comparison with the largest number is exact; a float32 quotient can round down to a power of two.",
)
EVEN = Source(
    "torchao.prototype.mx_formats, scale mode EVEN",
    "PyTorch authors",
    2024,
    "https://github.com/pytorch/ao",
    parts="ScaleCalculationMode.EVEN: the maximum is rounded to the element's mantissa before its exponent is taken",
)
INT_FP = Source(
    "INT v.s. FP: A Comprehensive Study of Fine-Grained Low-bit Quantization Formats",
    "Chen et al.",
    2025,
    "arXiv:2510.25602",
    parts="the scale rounded up",
    departs="Named rceil here; ceil is the exponent of the maximum rounded up, then lowered by the format's.",
)


def exponent(x: Tensor) -> Tensor:
    """floor(log2 x) of positive finite float32 numbers, subnormals included, read from the bits.

    Shapes:
        result  the shape of x, int32; zero gives -150
    """
    bits = x.contiguous().view(torch.int32)
    field = bits >> 23 & 0xFF
    lifted = (x * 2.0**24).view(torch.int32)
    return torch.where(field > 0, field - 127, torch.where(x > 0, (lifted >> 23 & 0xFF) - 151, -150))


def two_to_the(e: Tensor) -> Tensor:
    """2.0**e exactly for integers e in -1022..1023, as float64, made from its bits."""
    return (e.long() + 1023 << 52).view(torch.float64)


@dataclass(frozen=True)
class PowerOfTwo(Rule):
    """scale = 2**e. With the largest magnitude a of the block, the largest number m of the format and E = floor(log2 .)::

    floor   e = E(a) - E(m)                                         a may exceed m: it saturates
    ceil    e = E(a) + (a is no power of two) - E(m)
    even    e = E(a rounded half up to the mantissa of m) - E(m)
    rceil   e = the least with a <= m * 2**e                        nothing saturates
    """

    rule: Literal["floor", "ceil", "even", "rceil"] = "floor"

    @property
    def name(self) -> str:  # type: ignore[override]
        """The rule's own name: these print as ``floor``, ``ceil``, ``even`` and ``rceil``."""
        return self.rule

    def __str__(self) -> str:
        return self.rule

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        largest = amax(blocks)
        a = largest.nan_to_num(0.0).contiguous()
        m = fmt.top
        top = math.frexp(m)[1] - 1
        e = exponent(a) - top
        if self.rule == "ceil":
            e = e + (a.double() > two_to_the(e + top)).int()
        elif self.rule == "rceil":
            e = e - 1
            for _ in range(2):
                e = e + (a.double() > m * two_to_the(e)).int()
        elif self.rule == "even":
            mantissa = top - (math.frexp(fmt.step_at_top)[1] - 1)
            share = a.double() * two_to_the(-(e + top))  # in [1, 2)
            e = e + (share >= 2.0 - 2.0 ** -(mantissa + 1)).int()
        scale = two_to_the(e.clamp(-127, 127)).float()
        return Affine(torch.where(largest == 0, 0.0, torch.where(torch.isnan(largest), torch.nan, scale)))


floor = register("scaling", "floor", OCP_MX)(PowerOfTwo("floor"))
ceil = register("scaling", "ceil", INT_FP)(PowerOfTwo("ceil"))
even = register("scaling", "even", EVEN)(PowerOfTwo("even"))
rceil = register("scaling", "rceil", RCEIL)(PowerOfTwo("rceil"))
