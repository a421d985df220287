"""y = x W^T + bias with W from codes."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import linear

from lowbit.kernels.linear_spec import LinearSpec


def run(x: Tensor, weight: LinearSpec, bias: Tensor | None = None) -> Tensor:
    """In float32; the result has the dtype of x.

    Shapes:
        x       (..., in)
        bias    (out,)
        result  (..., out)
    """
    y = linear(x.float(), weight.dequantize(), None if bias is None else bias.float())
    return y.to(x.dtype)
