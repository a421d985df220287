"""Numbers to codes on a grid whose scales are known."""

from __future__ import annotations

from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.kernels.cpu import call, codec
from lowbit.kernels.grid_spec import Numbers, Units, layout


def refuses(x: Tensor, numbers: Numbers | str, blocks: Blocks, units: Units | str, noise: call.Noise = None) -> str | None:
    if isinstance(numbers, str):
        return numbers
    reason = call.unfit(x.detach()) or call.unfit_units(units, blocks, x.shape, differentiable=False)
    reason = reason or codec.refuses(numbers) or call.unfit_noise(noise, numbers, x)
    if reason is None and isinstance(units, Units) and units.zero is not None and codec.codec(numbers).value_method != codec.FIXED:
        reason = "a zero point needs integers that are rounded to the nearest, ties to even"
    return reason


def run(x: Tensor, numbers: Numbers, blocks: Blocks, units: Units, noise: call.Noise = None) -> Tensor:
    """Shapes: as x; uint8 up to 8 bits, int32 above."""
    codes = call.empty_codes(numbers, tuple(x.shape))
    where = layout(blocks, x.shape)
    if x.numel() and where is not None:
        call.run(x.contiguous(), numbers, where, call.GIVEN_RULE, units=units, codes=codes, noise=call.as_words(noise, numbers))
    return codes
