"""Rows of a packed weight as float32 numbers: the look-up of an embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowbit.errors import ShapeError
from lowbit.kernels.cpu.linear_layout import PackedLinear
from lowbit.kernels.op import extension


def refuses(index: Tensor, weight: PackedLinear | str) -> str | None:
    if isinstance(weight, str):
        return weight
    if type(index) is not Tensor or index.device.type != "cpu" or index.dtype not in (torch.int64, torch.int32):
        return f"{index.dtype} on {index.device} are not integers on the CPU"
    return None


def run(index: Tensor, weight: PackedLinear) -> Tensor:
    """Each number is table[code] * scale (+ offset), rounded after each operation.

    Shapes:
        index   (...)
        result  (..., columns)

    Raises:
        ShapeError: an index outside of the rows.
    """
    module: Any = extension("lowbit._cpu")
    flat = index.to(torch.int64).contiguous()
    if flat.numel():
        low, high = (int(end) for end in flat.aminmax())
        if low < 0 or high >= weight.rows:
            raise ShapeError(f"row {low if low < 0 else high} of a weight with {weight.rows} rows")
    out = torch.empty((*index.shape, weight.columns))
    module.gather(weight.handle, flat.data_ptr(), flat.numel(), out.data_ptr(), torch.get_num_threads())
    return out
