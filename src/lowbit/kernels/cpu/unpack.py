"""Bytes to codes of at most 16 bits, in the order of packing.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowbit.kernels.op import extension
from lowbit.packing import packed_nbytes


def refuses(data: Tensor, bits: int, count: int) -> str | None:
    if not 1 <= bits <= 16:
        return f"{bits} bits are not 1 to 16"
    if type(data) is not Tensor or data.device.type != "cpu" or data.dtype != torch.uint8 or data.numel() != packed_nbytes(count, bits):
        return f"{data.numel()} bytes as {data.dtype} on {data.device} are not {packed_nbytes(count, bits)} uint8 on the CPU"
    return None


def run(data: Tensor, bits: int, count: int) -> Tensor:
    """Shapes: (count,); uint8 up to 8 bits, int32 above."""
    module: Any = extension("lowbit._cpu")
    flat = data.contiguous()
    out = torch.empty(count, dtype=torch.uint8 if bits <= 8 else torch.int32)
    module.unpack(flat.data_ptr(), out.data_ptr(), bits, count, torch.get_num_threads())
    return out
