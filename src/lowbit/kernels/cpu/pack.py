"""Codes of at most 16 bits to bytes, in the order of packing.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowbit.kernels.op import extension
from lowbit.packing import packed_nbytes


def refuses(codes: Tensor, bits: int) -> str | None:
    if not 1 <= bits <= 16:
        return f"{bits} bits are not 1 to 16"
    kind = torch.uint8 if bits <= 8 else torch.int32
    if type(codes) is not Tensor or codes.device.type != "cpu" or codes.dtype != kind:
        return f"codes of {bits} bits are {codes.dtype} on {codes.device}, not {kind} on the CPU"
    return None


def run(codes: Tensor, bits: int) -> Tensor:
    """Shapes: (ceil(n * bits / 8),) uint8."""
    module: Any = extension("lowbit._cpu")
    flat = codes.contiguous()
    out = torch.empty(packed_nbytes(codes.numel(), bits), dtype=torch.uint8)
    module.pack(flat.data_ptr(), out.data_ptr(), bits, codes.numel(), torch.get_num_threads())
    return out
