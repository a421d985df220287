"""Numbers to codes on a grid whose scales are known."""

from __future__ import annotations

from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.kernels.cpu import call, codec
from lowbit.kernels.grid_spec import Numbers, Units, layout
from lowbit.kernels.triton import launch
from lowbit.kernels.triton.codec import host_codec


def refuses(x: Tensor, numbers: Numbers | str, blocks: Blocks, units: Units | str, noise: call.Noise = None) -> str | None:
    if isinstance(numbers, str):
        return numbers
    reason = launch.unfit(x.detach()) or launch.unfit_units(units, blocks, x, differentiable=False)
    reason = reason or codec.refuses(numbers) or call.unfit_noise(noise, numbers, x)
    if reason is None and isinstance(units, Units) and units.zero is not None and host_codec(numbers).way.value != codec.FIXED:
        reason = "a zero point needs integers that are rounded to the nearest, ties to even"
    return reason


def run(x: Tensor, numbers: Numbers, blocks: Blocks, units: Units, noise: call.Noise = None) -> Tensor:
    """Shapes: as x; uint8 up to 8 bits, int32 above."""
    codes = launch.empty_codes(numbers, x)
    where = layout(blocks, x.shape)
    if x.numel() and where is not None:
        words = call.as_words(noise, numbers)
        launch.run(x.detach().contiguous(), numbers, where, launch.GIVEN, units=units, codes=codes, noise=words)
    return codes
