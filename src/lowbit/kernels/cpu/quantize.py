"""Numbers to codes, with the scales as the rule gives them, in one pass; two where scales are scaled themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.kernels.cpu import call, fake_quantize, scales
from lowbit.kernels.grid_spec import GridSpec, Layout, Units, layout


def refuses(x: Tensor, spec: GridSpec | str, noise: call.Noise = None) -> str | None:
    if isinstance(spec, GridSpec) and spec.rule.kind == "hifloat4":
        return "scales of three levels are not returned"
    return fake_quantize.refuses(x, spec, None, noise)


def run(x: Tensor, spec: GridSpec, noise: call.Noise = None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Codes, scales before they are stored, zero points; the last two None for a cast.

    Shapes:
        codes           as x, uint8 up to 8 bits, int32 above
        scales, zeros   ``blocks.counts(x.shape)``, float32
    """
    codes = call.empty_codes(spec.numbers, tuple(x.shape))
    cast = spec.rule.kind == "none"
    if not x.numel():
        return (codes, None, None) if cast else (codes, *scales.run(x, spec))
    whole, words = x.contiguous(), call.as_words(noise, spec.numbers)
    where = Layout(1, 1, x.numel(), 1, x.numel()) if cast else layout(spec.blocks, x.shape)
    assert where is not None
    if cast:
        call.run(whole, spec.numbers, where, call.rule(spec.rule), codes=codes, noise=words)
        return codes, None, None
    if isinstance(spec.scale, GridSpec):
        scale, zero = scales.run(whole, spec)
        units = Units(fake_quantize.run(scale, spec.scale), zero)
        call.run(whole, spec.numbers, where, call.GIVEN_RULE, units=units, codes=codes, noise=words)
        return codes, scale, zero
    scale = torch.empty(spec.blocks.counts(x.shape))
    zero = torch.empty_like(scale) if spec.rule.kind == "minmax" else None
    rule, stored = call.rule(spec.rule), call.stored_as(spec)
    call.run(whole, spec.numbers, where, rule, scale=stored, codes=codes, scale_out=scale, zero_out=zero, noise=words)
    return codes, scale, zero
