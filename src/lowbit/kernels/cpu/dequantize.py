"""Codes to numbers: x = scale * (decoded - zero) + offset."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.errors import UnsupportedError
from lowbit.kernels.cpu import call
from lowbit.kernels.grid_spec import Units, layout
from lowbit.kernels.op import extension


def refuses(codes: Tensor, decoded: Tensor | str, blocks: Blocks, units: Units | str) -> str | None:
    if isinstance(decoded, str):
        return decoded
    if type(codes) is not Tensor or codes.device.type != "cpu" or codes.dtype not in (torch.uint8, torch.int32):
        return f"codes are {codes.dtype} on {codes.device}, not uint8 or int32 on the CPU"
    return call.unfit_units(units, blocks, codes.shape, differentiable=True)


def run(codes: Tensor, decoded: Tensor, blocks: Blocks, units: Units) -> Tensor:
    """Shapes: as codes, float32.

    Raises:
        UnsupportedError: a code is not one of the table.
    """
    out = torch.empty(codes.shape)
    where = layout(blocks, codes.shape)
    if not codes.numel() or where is None:
        return out
    module: Any = extension("lowbit._cpu")
    held = [codes.contiguous(), decoded.contiguous(), *(None if u is None else u.contiguous() for u in units)]
    known = module.decode(
        call.address(held[1]), len(decoded), call.address(held[0]), codes.element_size(), where, [call.address(u) for u in held[2:]],
        out.data_ptr(), 0, torch.get_num_threads(),
    )  # fmt: skip
    if not known:
        raise UnsupportedError(f"a code is not below {len(decoded)}, the number of codes of the format")
    return out
