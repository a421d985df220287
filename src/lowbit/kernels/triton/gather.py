"""Rows of a packed weight as float32 numbers: the look-up of an embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.kernels.triton import launch
from lowbit.kernels.triton import linear as kernels
from lowbit.kernels.triton.linear_layout import PackedLinear
from lowbit.kernels.triton.qlinear import numbers

COLUMNS = 512


def refuses(index: Tensor, weight: PackedLinear | str) -> str | None:
    if isinstance(weight, str):
        return weight
    if not isinstance(weight, PackedLinear):
        return f"the weight is a {type(weight).__name__}, laid out for another backend"
    if not weight.wide and weight.shift is None:
        return "its scales are held rounded to bfloat16"
    if index.dtype not in (torch.int64, torch.int32):
        return f"{index.dtype} are not integers"
    return launch.elsewhere(index, "the index")


def run(index: Tensor, weight: PackedLinear) -> Tensor:
    """Each number is table[code] * scale (+ offset), rounded after each operation. A row that does not exist is NaN.

    Shapes:
        index   (...)
        result  (..., columns)
    """
    out = torch.empty((*index.shape, weight.columns), device=index.device)
    if not index.numel():
        return out
    scale, factor, offset = (out if t is None else t for t in (weight.scale, weight.factor, weight.offset))
    with launch.on(index.device):
        kernels.rows_of[(index.numel(), -(-weight.columns // COLUMNS))](
            index.contiguous(), weight.words, scale, factor, offset, numbers(weight.stored, index.device), out, weight.rows,
            weight.columns, weight.words.shape[1], weight.columns // weight.group, weight.group, 2.0**weight.lift,
            BITS=weight.stored_bits, KIND=weight.kind, NARROW=0 if weight.wide else 32 // weight.group,
            SHIFT=0 if weight.shift is None else weight.shift, FACTOR=weight.factor is not None, OFFSET=weight.offset is not None,
            COLUMNS=COLUMNS, **launch.EXACT,
        )  # fmt: skip
    return out
