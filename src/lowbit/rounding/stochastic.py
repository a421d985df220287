"""Stochastic rounding: up with the probability that keeps the expectation."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.rounding.rounding import Gap, Rounding

GUPTA = Source(
    "Deep Learning with Limited Numerical Precision",
    "Gupta, Agrawal, Gopalakrishnan, Narayanan",
    2015,
    "arXiv:1502.02551",
    parts="section 3.1",
    departs="The share of the gap is a float32 quotient compared with 24 random bits, so |E[round(y)] - y| is at most 2**-23 of the gap.",
    records=("bf16-training", "pychop"),
)


def _up(gap: Gap, noise: Tensor | None) -> Tensor:
    if noise is None:
        raise UnsupportedError("stochastic rounding needs noise; pass noise=lowbit.philox.noise(Key(seed), x.shape)")
    share = (gap.y - gap.low) / (gap.high - gap.low)
    return (noise >> 8).to(torch.float32) < share * 2.0**24


stochastic = register("rounding", "stochastic", GUPTA, aliases=("sr",))(Rounding("stochastic", _up, noisy=True))
