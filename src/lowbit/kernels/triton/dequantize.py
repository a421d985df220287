"""Codes to numbers: x = scale * (decoded - zero) + offset."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.kernels.grid_spec import Units, layout
from lowbit.kernels.triton import launch


def refuses(codes: Tensor, decoded: Tensor | str, blocks: Blocks, units: Units | str) -> str | None:
    if isinstance(decoded, str):
        return decoded
    if codes.dtype not in (torch.uint8, torch.int32):
        return f"codes are {codes.dtype}, not uint8 or int32"
    return launch.elsewhere(codes, "codes") or launch.unfit_units(units, blocks, codes, differentiable=True)


def run(codes: Tensor, decoded: Tensor, blocks: Blocks, units: Units) -> Tensor:
    """Shapes: as codes, float32. A code that the table does not have becomes NaN: to say so would make the CPU wait."""
    out = torch.empty(codes.shape, device=codes.device)
    where = layout(blocks, codes.shape)
    if codes.numel() and where is not None:
        launch.run_decode(codes.contiguous(), decoded, where, units, out)
    return out
