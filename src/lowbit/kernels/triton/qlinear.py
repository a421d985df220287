"""y = x W^T + bias with W in packed codes on a CUDA device; x and y in bfloat16 or float16."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lowbit.errors import ShapeError
from lowbit.kernels.linear_spec import LinearSpec
from lowbit.kernels.triton import launch
from lowbit.kernels.triton import linear as kernels
from lowbit.kernels.triton.decoding import assembly
from lowbit.kernels.triton.linear_layout import COLUMNS, FEW, SOME, PackedLinear


def refuses(x: Tensor, weight: PackedLinear | LinearSpec | str, bias: Tensor | None = None) -> str | None:
    if isinstance(weight, str):  # why there is no layout
        return weight
    if not isinstance(weight, PackedLinear):
        return f"the weight is a {type(weight).__name__}; lowbit.kernels.triton.linear_layout makes the layout that this kernel reads"
    if bias is not None and bias.requires_grad and torch.is_grad_enabled():
        return "a gradient for the bias is wanted, which the kernel does not compute"
    reason = launch.unfit(x)
    if reason is None and x.dtype == torch.float32:
        reason = "x is float32; tensor cores take bfloat16 and float16"
    if reason is None and x.dtype == torch.float16 and not weight.wide and weight.shift is not None:
        reason = "scales of few columns are multiplied in bfloat16, x is float16"
    if reason is None and assembly(weight.stored, weight.stored_bits, x.dtype) is None:
        reason = f"the numbers of the table are not those of {x.dtype}"
    return reason


class Shape(NamedTuple):
    """How a product is shared: tiles of rows of a program, tiles of columns of a warp at a time, warps of a program.

    Args:
        eights: rows of x of a program, in eights.
        ahead: whether x is read one step before it is used.
    """

    row_tiles: int
    tiles: int
    warps: int
    eights: int = 2
    ahead: bool = False


class Wide(NamedTuple):
    """How a product with more rows of x is shared: 64 times so many rows of W, rows of x of a program, parts of the columns, stages.

    Args:
        tiles: of columns at a time.
    """

    row_tiles: int
    width: int
    split: int
    stages: int
    tiles: int


def shape_for(weight: PackedLinear, m: int) -> Shape:
    """What was quickest on an H100 with so few rows of x: enough warps for its 132 multiprocessors, and then as few as hide the memory."""
    tiles, row_tiles = _tiles(weight, 2), len(weight.words)
    if m > 8:
        if weight.stored_bits == 8:
            return Shape(1, _tiles(weight, 4), 4, 2, True)
        return Shape(2, tiles, 8) if row_tiles <= 256 else Shape(2, tiles, 4, 2, True)
    if weight.stored_bits == 8 or row_tiles <= 256:
        return Shape(1, tiles, 8)
    if row_tiles <= 1024:
        return Shape(1, tiles, 4)
    return Shape(2, tiles, 4) if weight.wide else Shape(1, tiles, 8)


def wide_for(weight: PackedLinear, m: int) -> Wide:
    """The same with some more rows: parts of the columns until there are about two programs a multiprocessor."""
    tiles = _tiles(weight, 2 if weight.wide or weight.stored_bits == 8 else 1)
    row_tiles, steps = 1 if weight.wide else 2, weight.words.shape[1] // tiles
    programs = -(-weight.rows // (64 * row_tiles)) * -(-m // 64)
    split = next((n for n in (1, 2, 4, 8) if n * programs >= 200 or n == 8), 1)
    while steps % split:
        split //= 2
    return Wide(row_tiles, 64, split, 4, tiles)


def _tiles(weight: PackedLinear, most: int) -> int:
    """Tiles of columns at a time, all of one group."""
    most = max(most, 2 if weight.stored_bits == 8 else 1)
    per_group = weight.group // COLUMNS[weight.stored_bits]
    while weight.wide and per_group % most:
        most //= 2
    return most


def run(x: Tensor, weight: PackedLinear, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Float32 sums in an order that depends on the shapes only, but with many rows, which the library of torch multiplies.

    Scales of 64 columns or more multiply float32 sums. Those of fewer columns multiply the weights, which are then rounded to the dtype
    of x: exact where scales are powers of two or NVFP4's. With many rows every weight is rounded so: off by up to 2**-9 of it.

    Shapes:
        x       (..., in)
        bias    (out,) float32
        result  (..., out), of the dtype of x

    Raises:
        ShapeError: x, bias or out do not fit.
    """
    if x.shape[-1:] != (weight.columns,):
        raise ShapeError(f"x of shape {tuple(x.shape)} and a weight of {weight.shape}: x needs {weight.columns} columns")
    if bias is not None and (bias.shape != (weight.rows,) or bias.dtype != torch.float32):
        raise ShapeError(f"bias is float32 of {weight.rows}, got {bias.dtype} of {tuple(bias.shape)}")
    shape = (*x.shape[:-1], weight.rows)
    if out is None:
        out = torch.empty(shape, dtype=x.dtype, device=x.device)
    elif out.shape != shape or out.dtype != x.dtype or not out.is_contiguous():
        raise ShapeError(f"out should be contiguous {x.dtype} of {shape}, it is {out.dtype} of {tuple(out.shape)}")
    dense = x.contiguous()
    m = x.numel() // weight.columns
    if not m:
        return out
    if m <= FEW:
        few_rows(dense, weight, bias, out, m, shape_for(weight, m))
    elif m <= SOME and (weight.wide or weight.shift is not None):
        many_rows(dense, weight, bias, out, m, wide_for(weight, m))
    else:
        W = dequantized(weight, x.dtype)
        if bias is None:
            torch.matmul(dense.view(m, -1), W.T, out=out.view(m, -1))
        else:
            torch.addmm(bias.to(x.dtype), dense.view(m, -1), W.T, out=out.view(m, -1))
    return out


def few_rows(x: Tensor, weight: PackedLinear, bias: Tensor | None, out: Tensor, m: int, how: Shape) -> None:
    """The product with codes in the registers of tensor cores."""
    row_tiles, tiles = weight.words.shape[:2]
    eights = 1 if m <= 8 else how.eights
    safe = tiles % (how.warps * how.tiles) == 0 and row_tiles % how.row_tiles == 0
    grid = (-(-row_tiles // how.row_tiles), -(-m // (8 * eights)))
    with launch.on(x.device):
        kernels.few_rows[grid](
            x, *arguments(weight, x)[:4], x if bias is None else bias, arguments(weight, x)[4], out, m, weight.rows, weight.columns,
            weight.columns, tiles, row_tiles, *group_arguments(weight), -(-tiles // (how.warps * how.tiles)),
            **meanings(weight, x.dtype), BIAS=bias is not None, ROW_TILES=how.row_tiles, TILES=how.tiles, WARPS=how.warps,
            EIGHTS=eights, AHEAD=how.ahead, SAFE=safe, num_warps=how.warps, num_stages=1,
        )  # fmt: skip


def in_steps(x: Tensor) -> Tensor:
    """Columns of x in the order in which tensor cores take those of W: 16 s + 8 c + 2 t + p for 8 t + 4 s + 2 c + p."""
    rows, columns = x.shape
    return x.view(rows, columns // 32, 4, 2, 2, 2).permute(0, 1, 3, 4, 2, 5).reshape(rows, columns)


def many_rows(x: Tensor, weight: PackedLinear, bias: Tensor | None, out: Tensor, m: int, how: Wide) -> None:
    """The product with codes in the registers of tensor cores, x in shared memory; parts are added in their order."""
    row_tiles, tiles = weight.words.shape[:2]
    steps = tiles // how.tiles // how.split
    whole = how.split == 1
    to = out if whole else torch.empty((how.split, m, weight.rows), device=x.device)
    w, scale, offset, factor, table = arguments(weight, x)
    with launch.on(x.device):
        kernels.many_rows[(-(-row_tiles // (4 * how.row_tiles)), -(-m // how.width), how.split)](
            in_steps(x.view(m, -1)), w, scale, offset, factor, x if bias is None else bias, table, to, m, weight.rows, weight.columns,
            tiles, row_tiles, *group_arguments(weight), **meanings(weight, x.dtype), BIAS=bias is not None and whole,
            ROW_TILES=how.row_tiles, TILES=how.tiles, WIDTH=how.width, STEPS=steps, SPLIT=how.split, STAGES=how.stages, num_warps=4,
        )  # fmt: skip
    if not whole:
        y = to.sum(0) if bias is None else to.sum(0).add_(bias)
        out.view(m, -1).copy_(y)


def dequantized(weight: PackedLinear, dtype: torch.dtype) -> Tensor:
    """W as numbers of a dtype, (rows, columns)."""
    out = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    row_tiles, tiles = weight.words.shape[:2]
    each = 2 if weight.stored_bits == 8 else 1
    with launch.on(out.device):
        kernels.dequantized[(row_tiles, -(-tiles // (8 * each)))](
            *arguments(weight, out), out, weight.rows, weight.columns, tiles, row_tiles, *group_arguments(weight),
            **meanings(weight, dtype), ROW_TILES=1, TILES=each, WARPS=8, num_warps=8, num_stages=1,
        )  # fmt: skip
    return out


def arguments(weight: PackedLinear, filler: Tensor) -> tuple[Tensor, ...]:
    """Words, scales, offsets, factors and the numbers of the table."""
    offset = filler if weight.offset is None else weight.offset.view(torch.int32)
    scale = weight.scale.view(torch.int32) if weight.wide else weight.scale
    return weight.words, scale, offset, filler if weight.factor is None else weight.factor, numbers(weight.stored, filler.device)


@lru_cache(maxsize=256)
def numbers(stored: tuple[float, ...], device: torch.device) -> Tensor:
    """The number of each stored code on a device."""
    return torch.tensor(stored, device=device)


def group_arguments(weight: PackedLinear) -> tuple[int, int, float]:
    """Groups of a row, tiles of a group, and what lifts narrow scales."""
    groups = weight.columns // weight.group
    return groups, max(1, weight.group // COLUMNS[weight.stored_bits]), 2.0**weight.lift


def meanings(weight: PackedLinear, dtype: torch.dtype) -> dict[str, object]:
    """What is compiled into a kernel."""
    return {
        "BITS": weight.stored_bits, "KIND": weight.kind, "DECODE": assembly(weight.stored, weight.stored_bits, dtype),
        "NARROW": 0 if weight.wide else 32 // weight.group, "SHIFT": -1 if weight.shift is None else weight.shift,
        "OFFSET": weight.offset is not None, "FACTOR": weight.factor is not None,
    }  # fmt: skip
