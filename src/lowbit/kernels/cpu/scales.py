"""The scales (and zero points) of all blocks of a tensor, as the rule gives them, before they are stored."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.kernels.cpu import call
from lowbit.kernels.grid_spec import GridSpec, layout


def refuses(x: Tensor, spec: GridSpec | str) -> str | None:
    if isinstance(spec, str):
        return spec
    if spec.rule.kind in ("none", "hifloat4"):
        return "a cast has no scales" if spec.rule.kind == "none" else "scales of three levels are not returned"
    if layout(spec.blocks, x.shape) is None:
        return f"blocks {spec.blocks} of a tensor of shape {tuple(x.shape)} are not blocks of rows and columns"
    return call.unfit(x)


def run(x: Tensor, spec: GridSpec) -> tuple[Tensor, Tensor | None]:
    """Shapes: both ``blocks.counts(x.shape)``, float32."""
    counts = spec.blocks.counts(x.shape)
    make = torch.empty if x.numel() else torch.zeros
    scale = make(counts)
    zero = make(counts) if spec.rule.kind == "minmax" else None
    where = layout(spec.blocks, x.shape)
    if x.numel() and where is not None:
        call.run(x.contiguous(), None, where, call.rule(spec.rule), scale_out=scale, zero_out=zero)
    return scale, zero
