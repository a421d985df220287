"""Numbers to codes, with the scales as the rule gives them, in one pass; two where scales are scaled themselves."""

from __future__ import annotations

from torch import Tensor

from lowbit.kernels.cpu import call
from lowbit.kernels.grid_spec import GridSpec, Scales, layout
from lowbit.kernels.triton import fake_quantize, launch, scales


def refuses(x: Tensor, spec: GridSpec | str, noise: call.Noise = None) -> str | None:
    if isinstance(spec, GridSpec) and spec.rule.kind == "hifloat4":
        return "scales of three levels are not returned"
    if isinstance(spec, GridSpec) and spec.units is not None:
        return "codes are chosen when what moves the numbers of a block is known"
    return fake_quantize.refuses(x, spec, None, noise)


def run(x: Tensor, spec: GridSpec, noise: call.Noise = None) -> tuple[Tensor, Scales | None]:
    """Codes, and what was found for each block before it is stored; None for a cast.

    Shapes:
        codes   as x, uint8 up to 8 bits, int32 above
    """
    codes, words = launch.empty_codes(spec.numbers, x), call.as_words(noise, spec.numbers)
    where = layout(spec.blocks, x.shape)
    if spec.rule.kind == "none" or where is None:
        if x.numel():
            launch.run(x.contiguous(), spec.numbers, launch.flat(x), spec.rule, codes=codes, noise=words)
        return codes, None
    if not x.numel() or call.one_pass(spec):
        return codes, scales.run(x, spec, codes, words)
    whole = x.contiguous()
    found = scales.run(whole, spec)
    launch.run(whole, spec.numbers, where, launch.GIVEN, units=fake_quantize.stored(found, spec), codes=codes, noise=words)
    return codes, found
