"""What numbers become when they are quantized and read back, in one pass; two where scales have scales of blocks of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.kernels.cpu import call, codec
from lowbit.kernels.grid_spec import GridSpec, Layout, Numbers, Scales, Units, layout
from lowbit.kernels.triton import launch, scales


def refuses(x: Tensor, spec: GridSpec | str, out: Tensor | None = None, noise: call.Noise = None) -> str | None:
    if isinstance(spec, str):
        return spec
    reason = launch.unfit(x) or _unfit_spec(spec, x) or call.unfit_noise(noise, spec.numbers, x)
    if reason is None and out is not None:
        reason = launch.unfit(out, "out")
        same = out.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        if reason is None and same and (out.data_ptr() != x.data_ptr() or out.dtype != x.dtype or out.stride() != x.stride()):
            reason = "out overlaps x"
    return reason


def _unfit_spec(spec: GridSpec, x: Tensor) -> str | None:
    reason = None if spec.rule.kind == "none" else scales.unfit_blocks(spec, x)
    reason = reason or codec.refuses(spec.numbers)
    if reason is not None or not isinstance(spec.scale, GridSpec | Numbers):
        return reason
    if isinstance(spec.scale, Numbers):
        return codec.refuses(spec.scale)
    return _unfit_spec(spec.scale, torch.empty(spec.blocks.counts(x.shape), device="meta"))


def run(x: Tensor, spec: GridSpec, out: Tensor | None = None, noise: call.Noise = None) -> Tensor:
    """Shapes: as x, in the dtype of x or of ``out``."""
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not x.numel():
        return out
    if not out.is_contiguous():
        return out.copy_(run(x, spec, torch.empty(x.shape, dtype=out.dtype, device=x.device), noise))
    whole, words, kind = x.contiguous(), call.as_words(noise, spec.numbers), spec.rule.kind
    where = Layout(1, 1, x.numel(), 1, x.numel()) if kind == "none" else layout(spec.blocks, x.shape)
    assert where is not None
    if kind == "hifloat4":
        launch.run_hifloat4(whole, spec, out)
    elif kind == "none":
        launch.run(whole, spec.numbers, where, spec.rule, out=out, noise=words)
    elif call.one_pass(spec) and kind == "absmean":
        scales.run(whole, spec, None, words, out)
    elif call.one_pass(spec):
        launch.run(
            whole, spec.numbers, where, spec.rule, scale=call.stored_as(spec), scale_unit=scales.scale_unit(whole, spec), out=out,
            candidates=spec.candidates, noise=words,
        )  # fmt: skip
    else:
        found = scales.run(whole, spec)
        units = stored(found, spec) if spec.units is None or found.low is None else spec.units(found.low, found.scale)
        launch.run(whole, spec.numbers, where, launch.GIVEN, units=units, out=out, noise=words)
    return out


def stored(found: Scales, spec: GridSpec) -> Units:
    """What was found for each block, with scales as they are stored by a quantizer of their own."""
    scale = run(found.scale, spec.scale, found.scale.clone()) if isinstance(spec.scale, GridSpec) else found.scale
    return Units(spec.scale(scale) if callable(spec.scale) else scale, found.zero)
