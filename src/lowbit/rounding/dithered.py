"""Dithered rounding: uniform noise of one gap is added before rounding to nearest."""

from __future__ import annotations

from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.rounding.rounding import Gap, Rounding

SCHUCHMAN = Source(
    "Dither Signals and Their Effect on Quantization Noise",
    "Schuchman",
    1964,
    "IEEE Transactions on Communication Technology 12(4)",
    parts="non-subtractive dither, uniform over one step",
    departs="The step is the gap around the number, so in floating point it changes with the number; 24 random bits.",
)


def _up(gap: Gap, noise: Tensor | None) -> Tensor:
    if noise is None:
        raise UnsupportedError("dithered rounding needs noise; pass noise=lowbit.philox.noise(Key(seed), x.shape)")
    share = (gap.y - gap.low).double() / (gap.high - gap.low).double()
    dither = ((noise >> 8).double() + 0.5) * 2.0**-24 - 0.5  # in (-1/2, 1/2), symmetric
    return share + dither >= 0.5


dithered = register("rounding", "dithered", SCHUCHMAN)(Rounding("dithered", _up, noisy=True))
