"""y = x W^T + bias with W in packed codes; x and y in float32, or bfloat16 and float16 through it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowbit.errors import ShapeError
from lowbit.kernels.cpu import call
from lowbit.kernels.cpu.linear_layout import PackedLinear
from lowbit.kernels.linear_spec import LinearSpec
from lowbit.kernels.op import extension


def refuses(x: Tensor, weight: PackedLinear | LinearSpec | str, bias: Tensor | None = None) -> str | None:
    if isinstance(weight, str):  # why there is no layout
        return weight
    if not isinstance(weight, PackedLinear):
        return f"the weight is a {type(weight).__name__}; lowbit.kernels.cpu.linear_layout.prepare makes the layout that this kernel reads"
    if bias is not None and bias.requires_grad and torch.is_grad_enabled():
        return "a gradient for the bias is wanted, which the kernel does not compute"
    return call.unfit(x)


def run(x: Tensor, weight: PackedLinear, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Float32 sums whose order depends on the shapes only, not on the number of threads.

    Shapes:
        x       (..., in)
        bias    (out,) float32
        result  (..., out), of the dtype of x

    Raises:
        ShapeError: x, bias or out do not fit.
    """
    return multiply("qlinear", x, weight, bias, out)


def multiply(function: str, x: Tensor, weight: PackedLinear, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """The product by a function of the extension."""
    if x.shape[-1:] != (weight.columns,):
        raise ShapeError(f"x of shape {tuple(x.shape)} and a weight of {weight.shape}: x needs {weight.columns} columns")
    if bias is not None and (bias.shape != (weight.rows,) or bias.dtype != torch.float32):
        raise ShapeError(f"bias is float32 of {weight.rows}, got {bias.dtype} of {tuple(bias.shape)}")
    shape = (*x.shape[:-1], weight.rows)
    if out is None:
        out = torch.empty(shape, dtype=x.dtype)
    elif out.shape != shape or out.dtype != x.dtype or not out.is_contiguous():
        raise ShapeError(f"out should be contiguous {x.dtype} of {shape}, it is {out.dtype} of {tuple(out.shape)}")
    module: Any = extension("lowbit._cpu")
    dense = x.contiguous()
    held = None if bias is None else bias.contiguous()
    rows = out.numel() // weight.rows
    product = getattr(module, function)
    product(
        weight.handle, dense.data_ptr(), call.TYPES[x.dtype], rows, out.data_ptr(), call.address(held), torch.get_num_threads()
    )  # fmt: skip
    return out
