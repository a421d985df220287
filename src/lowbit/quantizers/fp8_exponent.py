"""FP8 whose split between exponent and mantissa, and whose largest number, are those with the least squared error."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import register
from lowbit.formats.minifloat import POWER, minifloat
from lowbit.quantizers.best import Best
from lowbit.quantizers.scheme import Scheme
from lowbit.scaling.mse import MSE

# M = 6 .. 1 for every tensor; for every row 111 largest numbers from 0.1 to 1.2 of its largest magnitude, which are 111 real biases
fp8_exponent = register("quantizer", "fp8_exponent", POWER)(
    Best(
        tuple(Scheme(minifloat(f"e{7 - M}m{M}f", 7 - M, M, specials="numbers"), Blocks((0,)), MSE(0.1, 111, 1.2)) for M in range(6, 0, -1))
    )
)
