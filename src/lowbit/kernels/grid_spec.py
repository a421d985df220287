"""What a kernel is told about a quantizer: flat records of tensors and numbers, no formats and no modules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from lowbit.blocks import Blocks


@dataclass(frozen=True, eq=False)
class Numbers:
    """The numbers of a format under one rounding and overflow. The rank of y is the number of cut points <= y.

    Shapes:
        decoded     (codes,) float32: what each code stands for
        line        (n,) float64, ascending: the numbers that can be reached, with what would follow the ends where those overflow
        codes       (n,) int64: the code of each rank
        cuts        (n - 1,) float32; for stochastic rounding those of rounding down

    Args:
        bits: of a code.
        stochastic: up with the probability of the share of the gap, by 24 bits of noise.
        zero, nan, negative_nan, negative_zero: codes; None where the format has none (``zero`` is then the number nearest to zero).
    """

    bits: int
    decoded: Tensor
    line: Tensor
    codes: Tensor
    cuts: Tensor
    stochastic: bool
    zero: int
    negative_zero: int | None
    nan: int | None
    negative_nan: int | None


@dataclass(frozen=True)
class ScaleRule:
    """How the numbers of a block give its scale (and zero point).

    Args:
        kind: ``none`` is a plain cast, ``hifloat4`` three levels of scales for 64 numbers. A rule that has ``candidates`` is absmax.
            ``extremes`` measures the smallest and largest number of a block, of which ``units`` makes everything else.
        top: absmax: what the largest magnitude is mapped to. hifloat4: 1/7 in bfloat16.
        top_exponent: power_of_two: floor(log2) of the format's largest number.
        threshold: power_of_two: 23-bit mantissas of the maximum from here on take the next power of two.
        low, high: minmax and sign_split: the smallest and largest number of the format.
        factor: absmean: of the mean magnitude.
    """

    kind: Literal["none", "absmax", "power_of_two", "minmax", "hifloat4", "sign_split", "absmean", "extremes"] = "none"
    top: float = 1.0
    top_exponent: int = 0
    threshold: int = 1 << 24
    low: float = 0.0
    high: float = 0.0
    factor: float = 1.0


class Candidate(NamedTuple):
    """One of several ways of quantizing a block: scale = share * (max|x| / top), both float32."""

    numbers: Numbers
    top: float
    share: float = 1.0


@dataclass(frozen=True, eq=False)
class GridSpec:
    """A quantizer whose scales a kernel can find by itself.

    Args:
        scale: how scales are stored: None as float32, Numbers by a cast, a GridSpec by a quantizer with scales of its own. What no
            record says is a function from scales to stored scales.
        candidates: ways of which each block keeps the one with the least squared error as stored, of equals the first; `numbers` and
            the rule's top are then not used.
        units: from the smallest and largest number of each block to what moves its numbers.
    """

    numbers: Numbers
    blocks: Blocks
    rule: ScaleRule
    scale: Numbers | GridSpec | Callable[[Tensor], Tensor] | None = None
    candidates: tuple[Candidate, ...] = ()
    units: Callable[[Tensor, Tensor], Units] | None = None

    @property
    def under_one(self) -> GridSpec | None:
        """How scales are stored, where they are multiples of one number that the tensor's largest magnitude decides."""
        stored = self.scale
        if not isinstance(stored, GridSpec) or stored.blocks.size is not None or stored.candidates or self.rule.kind not in MONOTONE:
            return None
        return stored if stored.rule.kind in MONOTONE and not isinstance(stored.scale, GridSpec) and not callable(stored.scale) else None


#: rules whose scale grows with the largest magnitude and depends on nothing else
MONOTONE = ("absmax", "power_of_two")


class Scales(NamedTuple):
    """What a kernel finds for each block, as the rule gives it and before it is stored.

    Shapes:
        all     ``blocks.counts(shape)``; None where the rule has none

    Args:
        scale: of candidates the largest magnitude, of extremes the largest number; NaN where a number is not finite.
        low: the smallest number.
        chosen: which candidate the block keeps, int64.
    """

    scale: Tensor
    zero: Tensor | None = None
    negative: Tensor | None = None
    low: Tensor | None = None
    chosen: Tensor | None = None


class Units(NamedTuple):
    """What moves the numbers of a block, one value a block: x = scale * (value - zero) + offset; see ``quantizers.grid.Grid``."""

    scale: Tensor | None = None
    zero: Tensor | None = None
    offset: Tensor | None = None
    negative: Tensor | None = None
    inverse: Tensor | None = None


class Layout(NamedTuple):
    """A contiguous tensor as (batch, rows, columns), cut into blocks of (block_rows, block_columns); the last may be shorter."""

    batch: int
    rows: int
    columns: int
    block_rows: int
    block_columns: int

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return self.batch * -(-self.rows // self.block_rows) * -(-self.columns // self.block_columns)


def layout(blocks: Blocks, shape: Sequence[int]) -> Layout | None:
    """The layout of a tensor that has elements; None for blocks over three axes or more that cannot be seen as rows and columns.

    Axes are joined where that changes no block: an axis that a block takes whole with the one before it, and two axes of blocks of 1.

    Raises:
        ShapeError: the blocks do not divide the tensor.
    """
    extents = blocks.axes(shape)
    count = math.prod(shape)
    if not isinstance(blocks.size, tuple):
        return Layout(1, 1, count, 1, extents[0] if extents else 1)
    axes = [(n, b) for n, b in zip(shape, extents, strict=True) if n > 1]
    columns, axes = _last(axes)
    rows, axes = _last(axes)
    if any(b > 1 for _, b in axes):
        return None
    return Layout(math.prod(n for n, _ in axes), rows[0], columns[0], rows[1], columns[1])


def _last(axes: list[tuple[int, int]]) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """The last axis, joined with those before it as far as possible, and the rest."""
    if not axes:
        return (1, 1), []
    *rest, (n, b) = axes
    while rest and (b == n or rest[-1][1] == b == 1):
        before = rest.pop()
        n, b = before[0] * n, before[1] * b
    return (n, b), rest
