"""The two numbers of a grid that each weight lies between, for solvers that choose among them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lowbit.errors import UnsupportedError
from lowbit.formats.table import TableFormat
from lowbit.quantizers.grid import Grid, QTensor
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme
from lowbit.quantizers.spec import text
from lowbit.quantizers.weight import Weight
from lowbit.rounding.ieee754 import down

#: how far from a number towards its neighbour a weight may lie that still rounds to the number
INSIDE = 0.49


#: elements of a piece that stays in the cache
PIECE = 1 << 16


def pieces(x: Tensor) -> list[slice]:
    """Slices of the first axis of about ``PIECE`` elements each."""
    rows = max(1, PIECE * len(x) // max(1, x.numel()))
    return [slice(i, i + rows) for i in range(0, len(x), rows)]


class Order(NamedTuple):
    """A format with its numbers in ascending order, by code.

    Shapes:
        rank    (codes,) int64: the place of a code
        codes   (levels,) uint8 or int32
        values  (levels,) float32
    """

    rank: Tensor
    codes: Tensor
    values: Tensor


@lru_cache(maxsize=64)
def order(fmt: TableFormat, device: torch.device) -> Order:
    """The numbers of a format in ascending order."""
    line = fmt.lines[0]
    codes = torch.tensor(line.codes, dtype=torch.uint8 if fmt.bits <= 8 else torch.int32, device=device)
    values = torch.tensor(line.values, dtype=torch.float64, device=device).float()
    decoded = torch.tensor([fmt.values[c] for c in range(len(fmt.values))], dtype=torch.float64, device=device).float()
    rank = torch.searchsorted(values, decoded.nan_to_num(0.0)).clamp(max=len(values) - 1)
    return Order(rank, codes, values)


def refusal(quantizer: Quantizer, name: str) -> str | None:
    """Why weights of this quantizer have no two neighbours to choose from, or None."""
    fmt = getattr(quantizer, "format", getattr(quantizer, "element", None))
    if not isinstance(fmt, TableFormat) or fmt.alternatives:
        return f"{name} chooses between two numbers of one table, {text(quantizer)} has no such table; take the solver rtn"
    if getattr(getattr(quantizer, "rounding", None), "noisy", False):
        return f"{name} decides how weights are rounded, so the quantizer cannot; leave out round={quantizer.rounding}"  # type: ignore[attr-defined]
    return None


def grid_of(W: Tensor, quantizer: Quantizer, start: Weight) -> tuple[Tensor, Grid]:
    """What stands for the weight, and its grid: the start's, moved so that rounding to nearest gives the start's codes.

    A weight that the start rounds elsewhere becomes the number nearest to it that goes there.

    Raises:
        UnsupportedError: the start is more than one quantized tensor, or its blocks have tables of their own.
    """
    if len(start.terms) != 1 or not isinstance(start.terms[0], QTensor) or type(start.terms[0].grid) is not Grid:
        raise UnsupportedError(f"a start of {len(start.terms)} terms cannot be gone on from; take one that gives one quantized tensor")
    q = start.terms[0]
    fmt = q.grid.format
    if not isinstance(fmt, TableFormat) or q.grid.table is not None:
        raise UnsupportedError(f"the numbers of {fmt.name} are not those of one table")
    Q = q.dequantize()
    found = order(fmt, W.device)
    rank, last = found.rank[q.codes.long()], len(found.values) - 1
    towards = torch.where(W.float() > Q, 1, -1)
    other = q.grid.dequantize(found.codes[(rank + towards).clamp(0, last)])
    reach = INSIDE * (other - Q)
    moved = (W.float() - Q) * towards
    there = q.grid.choose(W).codes == q.codes
    return torch.where(there, W.float(), Q + torch.minimum(moved, reach.abs()) * towards), q.grid


def neighbours(W: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The codes of the neighbours below and above; beyond the ends the last two.

    Shapes:
        result  two of the shape of W
    """
    fmt = grid.format
    assert isinstance(fmt, TableFormat)
    found = order(fmt, W.device)
    below = found.rank[grid.choose(W, down).codes.long()].clamp(max=len(found.values) - 2)
    return found.codes[below], found.codes[below + 1]


class Between(NamedTuple):
    """Each weight between its neighbours: low + place * gap.

    Shapes:
        all     of the weight, float32; place is below 0 or above 1 beyond the ends, and 0 where there is no gap
    """

    low: Tensor
    gap: Tensor
    place: Tensor

    @staticmethod
    def of(W: Tensor, grid: Grid) -> Between:
        """The weight W (out, in) on its grid."""
        below, above = neighbours(W, grid)
        low = grid.dequantize(below)
        gap = grid.dequantize(above) - low
        return Between(low, gap, torch.where(gap > 0, (W.float() - low) / gap, 0.0))


def stored(values: Tensor, grid: Grid, quantizer: Quantizer, W: Tensor) -> Weight:
    """The weight whose numbers are ``values``, which lie on the grid."""
    chosen = replace(grid, overflow="saturate").choose(values)
    if not isinstance(quantizer, Scheme):  # it may pack its tensors in a way of its own
        chosen = replace(quantizer.quantize(W), codes=chosen.codes, grid=grid)
    return Weight((chosen,), (quantizer,))
