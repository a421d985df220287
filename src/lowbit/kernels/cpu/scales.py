"""The scales of all blocks of a tensor, as the rule gives them, before they are stored."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.kernels.cpu import call, codec
from lowbit.kernels.grid_spec import GridSpec, Scales, layout

#: what a rule finds beside the scale
SECOND = {"minmax": "zero", "sign_split": "negative", "extremes": "low"}


def refuses(x: Tensor, spec: GridSpec | str) -> str | None:
    if isinstance(spec, str):
        return spec
    if spec.rule.kind in ("none", "hifloat4"):
        return "a cast has no scales" if spec.rule.kind == "none" else "scales of three levels are not returned"
    return call.unfit(x) or unfit_blocks(spec, tuple(x.shape))


def unfit_blocks(spec: GridSpec, shape: tuple[int, ...]) -> str | None:
    """Why the blocks of a tensor cannot be measured, or their candidates not be compared."""
    where = layout(spec.blocks, shape)
    if where is None:
        return f"blocks {spec.blocks} of a tensor of shape {shape} are not blocks of rows and columns"
    if where.block_rows > 1 and (spec.candidates or spec.rule.kind == "absmean"):
        return f"blocks {spec.blocks}: sums are those of blocks within a row"
    if spec.rule.kind == "extremes" and (where.rows % where.block_rows or where.columns % where.block_columns):
        return f"blocks {spec.blocks} that are filled up with zeros, which count as their numbers"
    if not spec.candidates:
        return None
    if not call.one_pass(spec):
        return "candidates are compared as stored, and scales are stored in two passes"
    return next((reason for c in spec.candidates if (reason := codec.refuses(c.numbers))), None)


def run(x: Tensor, spec: GridSpec, codes: Tensor | None = None, noise: call.Noise = None) -> Scales:
    """Shapes: ``blocks.counts(x.shape)``, float32; ``codes`` are those of x where scales are stored on the way."""
    counts = spec.blocks.counts(x.shape)
    make = torch.empty if x.numel() else torch.zeros
    scale = make(counts)
    second = make(counts) if spec.rule.kind in SECOND else None
    chosen = torch.zeros(counts, dtype=torch.uint8) if spec.candidates else None
    where = layout(spec.blocks, x.shape)
    if x.numel() and where is not None:
        whole = x.contiguous()
        stored = codes is not None or chosen is not None
        call.run(
            whole, None if codes is None else spec.numbers, where, call.rule(spec.rule), scale=call.stored_as(spec) if stored else None,
            scale_unit=call.scale_unit(whole, spec) if stored else None, codes=codes, scale_out=scale, second_out=second,
            candidates=spec.candidates, chosen=chosen, noise=noise,
        )  # fmt: skip
    found = Scales(scale, chosen=None if chosen is None else chosen.long())
    return found if second is None else found._replace(**{SECOND[spec.rule.kind]: second})
