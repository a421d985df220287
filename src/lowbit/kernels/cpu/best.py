"""Which of several quantizers of a whole tensor has the least squared error; of equals the first."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lowbit.kernels.cpu import call, fake_quantize
from lowbit.kernels.grid_spec import GridSpec
from lowbit.kernels.op import extension


def refuses(x: Tensor, specs: tuple[GridSpec | str, ...]) -> str | None:
    return next((reason for spec in specs if (reason := fake_quantize.refuses(x, spec)) is not None), None)


def run(x: Tensor, specs: tuple[GridSpec | str, ...]) -> int:
    """The number of the quantizer. Where the error of all is NaN that is the first."""
    module: Any = extension("lowbit._cpu")
    whole, out, best, least = x.contiguous(), torch.empty(x.shape), 0, math.inf
    for k, spec in enumerate(specs):
        assert isinstance(spec, GridSpec)
        fake_quantize.run(whole, spec, out)
        error = module.squared_error(whole.data_ptr(), call.TYPES[x.dtype], out.data_ptr(), x.numel(), torch.get_num_threads())
        if error < least:
            best, least = k, error
    return best
