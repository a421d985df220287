"""What numbers become when they are quantized and read back, in one pass; two where scales have scales of blocks of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.kernels.cpu import call, codec, scales
from lowbit.kernels.grid_spec import GridSpec, Layout, Numbers, Scales, Units, layout


def refuses(x: Tensor, spec: GridSpec | str, out: Tensor | None = None, noise: call.Noise = None) -> str | None:
    if isinstance(spec, str):
        return spec
    reason = call.unfit(x) or _unfit_spec(spec, tuple(x.shape)) or call.unfit_noise(noise, spec.numbers, x)
    if reason is None and out is not None:
        reason = call.unfit(out)
        same = out.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        if reason is None and same and (out.data_ptr() != x.data_ptr() or out.dtype != x.dtype or out.stride() != x.stride()):
            reason = "out overlaps x"
    return reason


def _unfit_spec(spec: GridSpec, shape: tuple[int, ...]) -> str | None:
    reason = None if spec.rule.kind == "none" else scales.unfit_blocks(spec, shape)
    reason = reason or codec.refuses(spec.numbers)
    if reason is not None or not isinstance(spec.scale, GridSpec | Numbers):
        return reason
    return codec.refuses(spec.scale) if isinstance(spec.scale, Numbers) else _unfit_spec(spec.scale, spec.blocks.counts(shape))


def run(x: Tensor, spec: GridSpec, out: Tensor | None = None, noise: call.Noise = None) -> Tensor:
    """Shapes: as x, in the dtype of x or of ``out``."""
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype)
    if not x.numel():
        return out
    if not out.is_contiguous():
        return out.copy_(run(x, spec, torch.empty(x.shape, dtype=out.dtype), noise))
    whole, words = x.contiguous(), call.as_words(noise, spec.numbers)
    where = layout(spec.blocks, x.shape) if spec.rule.kind != "none" else Layout(1, 1, x.numel(), 1, x.numel())
    assert where is not None
    if call.one_pass(spec):
        call.run(
            whole, spec.numbers, where, call.rule(spec.rule), scale=call.stored_as(spec), scale_unit=call.scale_unit(whole, spec), out=out,
            candidates=spec.candidates, noise=words,
        )  # fmt: skip
    else:
        found = scales.run(whole, spec)
        units = stored(found, spec) if spec.units is None or found.low is None else spec.units(found.low, found.scale)
        call.run(whole, spec.numbers, where, call.GIVEN_RULE, units=units, out=out, noise=words)
    return out


def stored(found: Scales, spec: GridSpec) -> Units:
    """What was found for each block, with scales as they are stored by a quantizer of their own."""
    scale = run(found.scale, spec.scale, found.scale.clone()) if isinstance(spec.scale, GridSpec) else found.scale
    return Units(spec.scale(scale) if callable(spec.scale) else scale, found.zero)
