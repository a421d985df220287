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

#: what is multiplied and added, see csrc/gemm.h
FLOAT32_SUMS, INT8_SUMS, BFLOAT16_SUMS = range(3)


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

    Nine rows or more of bfloat16, or of float32 after ``torch.set_float32_matmul_precision("medium")``, are multiplied as bfloat16 where
    the CPU does that quickly (AMX, AVX512-BF16): x and W are rounded to bfloat16 once, so a product is off by up to 2**-8 of its
    magnitude; sums still are float32.

    Shapes:
        x       (..., in)
        bias    (out,) float32
        result  (..., out), of the dtype of x

    Raises:
        ShapeError: x, bias or out do not fit.
    """
    return multiply("qlinear", x, weight, bias, out, halves(x))


def many_rows(weight: PackedLinear, *, integer: bool, rows: int = 64) -> str:
    """What multiplies so many rows of float32 (/ bfloat16, if that is another) or of int8; empty where a few are taken at a time."""
    module: Any = extension("lowbit._cpu")
    kinds = (INT8_SUMS,) if integer else (FLOAT32_SUMS, BFLOAT16_SUMS)
    return " / ".join(dict.fromkeys(module.many_rows(weight.handle, rows, kind) for kind in kinds))


def halves(x: Tensor) -> bool:
    """Whether products of bfloat16 are good enough for x."""
    return x.dtype == torch.bfloat16 or (x.dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium")


def multiply(function: str, x: Tensor, weight: PackedLinear, bias: Tensor | None, out: Tensor | None, *options: bool) -> Tensor:
    """The product by a function of the extension, with what it takes besides."""
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
    threads = torch.get_num_threads()
    product(weight.handle, dense.data_ptr(), call.TYPES[x.dtype], rows, out.data_ptr(), call.address(held), *options, threads)
    return out
