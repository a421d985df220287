"""The contract of a scaling: from the numbers of a block to its scale, zero and offset, or to several candidates."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from lowbit.formats.format import Format

#: numbers that are summed at a time
PIECE = 1024


class Affine(NamedTuple):
    """x = scale * (value - zero) + offset, one of each a block.

    Shapes:
        all     (*counts), float32; None where absent

    Args:
        zero: in code units, an integer that the format can hold.
        offset: in units of x.
        negative: a second scale, for negative values (AFPQ).
        table: which alternative table the block uses (BitMoD); int64.
        inverse: codes are chosen from x * inverse where that differs from x / scale.
    """

    scale: Tensor
    zero: Tensor | None = None
    offset: Tensor | None = None
    negative: Tensor | None = None
    table: Tensor | None = None
    inverse: Tensor | None = None


class Scaling(Protocol):
    """A rule for the unit of a block.

    The written answers: a block of zeros gets scale 0 (all its codes are zero, and it does not count for the range
    of nested scales); a block with a NaN or an Inf gets scale NaN, so it decodes to NaN.
    """

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine | list[Affine]:
        """``blocks`` (*counts, elements) float32; a list holds candidates, of which the quantizer keeps the best as stored."""


@dataclass(frozen=True)
class Rule:
    """A scaling with a name and parameters, which prints and parses as ``name:value`` or ``name:field=value``.

    Attributes:
        extremes: whether the smallest and the largest number of a block decide everything, so that a kernel need find nothing else.
    """

    name: ClassVar[str]
    extremes: ClassVar[bool] = False

    def __str__(self) -> str:
        parts = [self.name]
        for i, field in enumerate(fields(self)):
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(_plain(value) if i == len(parts) - 1 else f"{field.name}={_plain(value)}")
        return ":".join(parts)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def finite_or_nan(scale: Tensor) -> Tensor:
    """Inf becomes NaN: a block without a finite maximum decodes to NaN everywhere."""
    return torch.where(torch.isfinite(scale), scale, torch.full_like(scale, torch.nan))


def amax(blocks: Tensor) -> Tensor:
    """The largest magnitude of each block; NaN where the block holds a NaN or an Inf.

    Shapes:
        blocks  (*counts, elements)
        result  (*counts)
    """
    if blocks.shape[-1] == 0:
        return blocks.new_zeros(blocks.shape[:-1])
    return finite_or_nan(torch.maximum(blocks.amax(-1), -blocks.amin(-1)) + 0.0)  # the maximum of zeros may be -0


def divided(largest: Tensor, top: float) -> Tensor:
    """largest / top in one float32 division on any device; a finite maximum gives a finite scale, and -0 gives 0."""
    scale = largest / torch.tensor(top, dtype=torch.float32, device=largest.device)  # a Python number would be inverted on a GPU
    return scale.clamp(max=torch.finfo(torch.float32).max) + 0.0


def step(low: Tensor, high: Tensor, count: int) -> Tensor:
    """(high - low) / count; finite for finite numbers, also where their difference is not, and NaN for the others."""
    halves = high / 2 - low / 2
    wide = 2 * divided(halves, count)
    found = torch.where(torch.isinf(high - low), wide, divided(high - low, count)).clamp(max=torch.finfo(torch.float32).max)
    return torch.where(torch.isfinite(halves), found, torch.nan)


def fixed_sum(x: Tensor) -> Tensor:
    """The sum over the last axis in float64, in an order that is the same on every machine and in the extension (``csrc/kernels/sums.h``).

    n <= PIECE numbers are filled up with zeros to a power of two, and halves are added until one is left; longer sums are sums of the
    sums of pieces. What ``torch.sum`` gives depends on the number of threads and on the width of the vectors.

    Shapes:
        x       (*, n)
        result  (*), float64
    """
    while x.shape[-1] > PIECE:
        x = _folded(torch.nn.functional.pad(x, (0, -x.shape[-1] % PIECE)).unflatten(-1, (-1, PIECE)))
    return _folded(x)


def _folded(x: Tensor) -> Tensor:
    size = 1 << max(0, x.shape[-1] - 1).bit_length()
    if size != x.shape[-1]:
        x = torch.nn.functional.pad(x, (0, size - x.shape[-1]))
    while size > 1:
        size //= 2
        x = x[..., :size].double() + x[..., size:].double()
    return x.squeeze(-1).double()
