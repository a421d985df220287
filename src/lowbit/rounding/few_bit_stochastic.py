"""Stochastic rounding with few random bits, and what that costs."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.rounding.rounding import Gap, Rounding

FITZGIBBON = Source(
    "On Stochastic Rounding with Few Random Bits",
    "Fitzgibbon, Felix",
    2025,
    "arXiv:2504.20634",
    parts="SRFF (the share of the gap is cut off after k bits) and the corrected variant that adds half of the last bit",
    departs="Shares are float32 quotients; random bits are the upper ones of a 32-bit word.",
    records=("bf16-training",),
)


def few_bit_stochastic(bits: int, *, corrected: bool = True) -> Rounding:
    """Up with probability floor(share * 2**bits + c) / 2**bits, c = 1/2 when corrected, else 0.

    The bias E[round(y)] - y lies in [-1, 1] * 2**-(bits+1) gaps when corrected, and in (-1, 0] * 2**-bits gaps when not.

    Raises:
        UnsupportedError: bits is not in 1..24.
    """
    if not 1 <= bits <= 24:
        raise UnsupportedError(f"stochastic rounding with {bits} random bits; it takes 1 to 24")
    name = f"stochastic{bits}" if corrected else f"stochastic{bits}_cut"

    def up(gap: Gap, noise: Tensor | None) -> Tensor:
        if noise is None:
            raise UnsupportedError(f"{name} rounding needs noise; pass noise=lowbit.philox.noise(Key(seed), x.shape)")
        share = (gap.y - gap.low) / (gap.high - gap.low)
        steps = torch.floor(share.double() * 2.0**bits + (0.5 if corrected else 0.0))
        return (noise >> 32 - bits).double() < steps

    return Rounding(name, up, noisy=True, bias=2.0 ** -(bits + corrected))


FEW = {
    rounding.name: register("rounding", rounding.name, FITZGIBBON)(rounding)
    for rounding in (*(few_bit_stochastic(bits) for bits in (2, 4, 8, 16)), *(few_bit_stochastic(bits, corrected=False) for bits in (4, 8)))
}
