"""The scales of all blocks of a tensor, as the rule gives them, before they are stored."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.kernels.cpu import call, codec
from lowbit.kernels.grid_spec import GridSpec, Layout, Numbers, ScaleRule, Scales, layout
from lowbit.kernels.triton import launch
from lowbit.kernels.triton.codec import codecs

#: what a rule finds beside the scale
SECOND = {"minmax": "zero", "sign_split": "negative", "extremes": "low"}


def refuses(x: Tensor, spec: GridSpec | str) -> str | None:
    if isinstance(spec, str):
        return spec
    if spec.rule.kind in ("none", "hifloat4"):
        return "a cast has no scales" if spec.rule.kind == "none" else "scales of three levels are not returned"
    return launch.unfit(x) or unfit_blocks(spec, x)


def unfit_blocks(spec: GridSpec, x: Tensor) -> str | None:
    """Why the blocks of a tensor cannot be measured, or their candidates not be compared."""
    where = layout(spec.blocks, x.shape)
    if where is None:
        return f"blocks {spec.blocks} of a tensor of shape {tuple(x.shape)} are not blocks of rows and columns"
    if where.block_rows > 1 and (spec.candidates or spec.rule.kind == "absmean"):
        return f"blocks {spec.blocks}: sums are those of blocks within a row"
    if spec.rule.kind == "extremes" and (where.rows % where.block_rows or where.columns % where.block_columns):
        return f"blocks {spec.blocks} that are filled up with zeros, which count as their numbers"
    if not spec.candidates:
        return None
    if where.block_columns > launch.PIECE:
        return f"candidates for blocks of {where.block_columns} numbers; a program compares those of {launch.PIECE}"
    if not call.one_pass(spec):
        return "candidates are compared as stored, and scales are stored in two passes"
    found = codecs(tuple(c.numbers for c in spec.candidates), x.device)
    return found if isinstance(found, str) else next((r for c in spec.candidates if (r := codec.refuses(c.numbers))), None)


def run(x: Tensor, spec: GridSpec, codes: Tensor | None = None, noise: call.Noise = None, out: Tensor | None = None) -> Scales:
    """Shapes: ``blocks.counts(x.shape)``, float32; ``codes`` and ``out`` are those of x where scales are stored on the way."""
    counts, where = spec.blocks.counts(x.shape), layout(spec.blocks, x.shape)
    assert where is not None
    make = torch.empty if x.numel() else torch.zeros
    scale = make(counts, device=x.device)
    second = make(counts, device=x.device) if spec.rule.kind in SECOND else None
    chosen = torch.zeros(counts, dtype=torch.uint8, device=x.device) if spec.candidates else None
    if x.numel():
        whole = x.contiguous()
        if spec.rule.kind == "absmean":
            scale = mean_scale(whole, spec.rule, where).view(counts)
            if codes is not None or out is not None:
                stored = launch.as_stored(scale.reshape(-1), call.stored_as(spec), scale_unit(whole, spec))
                launch.run(whole, spec.numbers, where, launch.GIVEN, units=call.Units(stored), codes=codes, out=out, noise=noise)
        else:
            stores = codes is not None or chosen is not None or out is not None
            numbers = spec.numbers if codes is not None or out is not None else None
            launch.run(
                whole, numbers, where, spec.rule, scale=call.stored_as(spec) if stores else None,
                scale_unit=scale_unit(whole, spec) if stores else None, codes=codes, out=out, scale_out=scale, second_out=second,
                candidates=spec.candidates, chosen=chosen, noise=noise,
            )  # fmt: skip
    found = Scales(scale, chosen=None if chosen is None else chosen.long())
    return found if second is None else found._replace(**{SECOND[spec.rule.kind]: second})


def mean_scale(x: Tensor, rule: ScaleRule, where: Layout) -> Tensor:
    """factor * mean |x| of each block, NaN where that is not finite."""
    sums = launch.piece_sums(x, where)
    while sums.shape[-1] > 1:
        sums = launch.folded(sums)
    mean = sums.squeeze(-1) / where.block_columns
    scale = (rule.factor * mean).clamp(max=torch.finfo(torch.float32).max).float()
    return torch.where(mean.isfinite(), scale, torch.nan)


def scale_unit(x: Tensor, spec: GridSpec) -> Tensor | None:
    """The one number that stored scales are multiples of: what the rules make of the tensor's largest magnitude."""
    under = spec.under_one
    if under is None:
        return None
    one = Layout(1, 1, 1, 1, 1)

    def rule_of(value: Tensor, rule: ScaleRule, where: Layout = one) -> Tensor:
        found = torch.empty(1, device=x.device)
        launch.run(value, None, where, rule, scale_out=found)
        return found

    largest = rule_of(x, launch.LARGEST, Layout(1, 1, x.numel(), 1, x.numel()))
    if spec.candidates:
        found = [rule_of(largest, ScaleRule("absmax", top=c.top)) * c.share for c in spec.candidates]
        outer = torch.stack(found).amax(0)
    else:
        outer = rule_of(largest, spec.rule)
    unit = rule_of(outer, under.rule)
    return launch.as_stored(unit, under.scale, None) if isinstance(under.scale, Numbers) else unit
