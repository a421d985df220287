"""Integer twins of the block floats: MXINT with a power of two that never clips, NVINT4 with an e4m3 scale; codes are symmetric."""

from __future__ import annotations

import math

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.integer import INTEGERS
from lowbit.formats.minifloat import float8_e4m3fn, float8_e8m0fnu
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.absmax import absmax
from lowbit.scaling.power_of_two import rceil

CHEN = Source(
    "INT v.s. FP: A Comprehensive Study of Fine-Grained Low-bit Quantization Formats",
    "Chen et al.",
    2025,
    "arXiv:2510.25602",
    parts="the formats (scale rounded up), symmetric clipping (-2**(b-1) is never used), the QSNR of normal numbers",
    departs="mxint8 is OCP's (fixed point, floor); the one of this paper is mxint8_symmetric.",
    records=("int-vs-fp",),
)

mxint8_symmetric, mxint6, mxint4 = (
    register("quantizer", name, CHEN)(Scheme(INTEGERS[f"int{bits}_narrow"], Blocks((32,)), rceil, scale_quantizer=cast(float8_e8m0fnu)))
    for name, bits in (("mxint8_symmetric", 8), ("mxint6", 6), ("mxint4", 4))
)
nvint4 = register("quantizer", "nvint4", CHEN)(
    Scheme(INTEGERS["int4_narrow"], Blocks((16,)), absmax, scale_quantizer=Scheme(float8_e4m3fn, Blocks(None), absmax))
)


def qsnr_of_integers(bits: int, crest: float, rho: float = 1.5, exact_in: int = 0, largest: int | None = None) -> float:
    """Signal to noise in dB of integers on normal numbers: 10 log10(12 L**2 / (rho * crest)**2), as 4.78 + 6.02 b - 20 log10(rho * crest).

    Args:
        crest: largest magnitude of a block over sigma.
        rho: the scale as stored over the ideal one; 1.5 for powers of two, 1.05 for e4m3 in the paper.
        exact_in: the block's largest magnitude is met exactly, so one number of so many has no error; 0 where it is not.
        largest: L, by default 2**(b-1) as in the paper; 2**(b-1) - 1 is what symmetric codes have.
    """
    L = 2 ** (bits - 1) if largest is None else largest
    share = 1 - 1 / exact_in if exact_in else 1.0
    return -10 * math.log10((rho * crest / L) ** 2 / 12 * share)


def qsnr_of_floats(mantissa: int, bias: int, largest: float, crest: float, rho: float = 1.5, exact_in: int = 0) -> float:
    """The same of a minifloat: relative noise of the normal numbers, absolute noise of the subnormal ones, and what becomes zero.

    ::

        -10 log10(w_norm / (24 * 4**M) + 4**(1-B-M) / (12 Q**2) * (rho k)**2 * p_sub + w_zero)
        T0 = rho k 2**(-B-M) / Q,  T1 = rho k 2**(1-B) / Q,  p_sub = 2 (Phi(T1) - Phi(T0)),
        w_norm = 2 (T1 phi(T1) + 1 - below(T1)),  w_zero = 2 Phi(T0) - 1 - 2 T0 phi(T0)

    Args:
        mantissa, bias, largest: M, B and Q of the format: 3, 7, 448 for e4m3; 1, 1, 6 for e2m1.
        crest, rho, exact_in: k and the others, as for integers.
    """

    def below(t: float) -> float:
        return (1 + math.erf(t / math.sqrt(2))) / 2

    def density(t: float) -> float:
        return math.exp(-t * t / 2) / math.sqrt(2 * math.pi)

    unit = rho * crest / largest
    T0, T1 = unit * 2.0 ** (-bias - mantissa), unit * 2.0 ** (1 - bias)
    normal = 2 * (T1 * density(T1) + 1 - below(T1)) - (crest**2 / exact_in if exact_in else 0)
    subnormal = 4.0 ** (1 - bias - mantissa) / 12 * unit**2 * 2 * (below(T1) - below(T0))
    zero = 2 * below(T0) - 1 - 2 * T0 * density(T0)
    return -10 * math.log10(max(0.0, normal) / (24 * 4**mantissa) + subnormal + zero)
