"""Numbers in units of a format to numbers and codes of the format, in Triton; csrc/kernels/codecs.h holds the same in C++."""

import triton
import triton.language as tl
from triton.language import constexpr

from lowbit.kernels.cpu.codec import FIXED, FLOAT, LOOKUP, WIDE
from lowbit.kernels.triton.codec import PARAMETERS

_FIXED, _FLOAT, _WIDE, _LOOKUP = (constexpr(method) for method in (FIXED, FLOAT, WIDE, LOOKUP))
(
    HIGH, LOW, MAGIC, INVERSE_UNIT, LEAST, LIFT, DROP, OVERFLOW_FROM, OVERFLOW_VALUE, OVERFLOW_VALUE_1, OVERFLOW_CODE, OVERFLOW_CODE_1,
    CODE_SIGN, NAN_VALUE, NAN_VALUE_1, NAN_CODE, NAN_CODE_1, BUCKET_LOW, BUCKET_HIGH, BUCKET_SHIFT, BUCKET_COUNT, ZERO_RANK, LAST_RANK,
    ZERO_CODE, NEGATIVE_ZERO_CODE, BUCKETS, CUTS, RANK_VALUE, RANK_NUMBER, RANK_CODE,
) = (constexpr(i) for i in range(len(PARAMETERS)))  # fmt: skip

MAGNITUDE = constexpr(0x7FFFFFFF)
INFINITE = constexpr(0x7F800000)
MANTISSA = constexpr(0x007FFFFF)


@triton.jit
def bits(x):
    return x.to(tl.int32, bitcast=True)


@triton.jit
def number(b):
    return b.to(tl.float32, bitcast=True)


@triton.jit
def real(c, place: constexpr):
    """A parameter of a codec that is a float32."""
    return number(tl.load(c + place))


@triton.jit
def is_nan(y):
    return (bits(y) & MAGNITUDE) > INFINITE


@triton.jit
def by_sign(y, c, place: constexpr):
    """Of two words the one for the sign of y."""
    return tl.where(bits(y) < 0, tl.load(c + place + 1), tl.load(c + place))


@triton.jit
def rises(y, low, high, noise):
    """The upper 24 bits of noise against the share of the gap."""
    share = tl.div_rn(y - low, high - low)
    return (noise >> 8).to(tl.float32) < share * 16777216.0


@triton.jit
def fixed_value(y, c):
    magic = real(c, MAGIC)
    t = tl.minimum(tl.maximum(y, real(c, LOW)), real(c, HIGH))
    return tl.where(is_nan(y), real(c, NAN_VALUE), (t + magic) - magic)


@triton.jit
def finish(y, r, c, OVERFLOWS: constexpr, SIGNED_ZERO: constexpr):
    """What a minifloat does with zeros, with what overflows and with NaN."""
    if not SIGNED_ZERO:
        r = r + 0.0
    if OVERFLOWS:
        r = tl.where((bits(y) & MAGNITUDE) >= tl.load(c + OVERFLOW_FROM), number(by_sign(y, c, OVERFLOW_VALUE)), r)
    return tl.where(is_nan(y), number(by_sign(y, c, NAN_VALUE)), r)


@triton.jit
def float_value(y, noise, c, STOCHASTIC: constexpr):
    b = bits(y)
    magnitude = b & MAGNITUDE
    sign = b ^ magnitude
    a = number(tl.minimum(magnitude, tl.load(c + HIGH)))
    magic = number(tl.maximum(bits(a) & INFINITE, tl.load(c + LEAST)) + tl.load(c + LIFT))
    r = (a + magic) - magic
    if STOCHASTIC:
        unit = magic * 0.00000011920928955078125  # 2**-23
        below = tl.where(r > a, r - unit, r)
        above = tl.where(below == a, below, below + unit)
        low = number(bits(tl.where(b < 0, above, below)) | sign)
        high = number(bits(tl.where(b < 0, below, above)) | sign)
        # the gap is a power of two whose inverse is a number, or nothing: share = (y - low) / unit exactly
        share = (number(bits(a) | sign) - low) * number(0x7F000000 - bits(unit))
        r = tl.where(((noise >> 8).to(tl.float32) < share * 16777216.0) & (low < high), high, low)
    else:
        r = number(bits(r) | sign)
    return r


@triton.jit
def wide_value(y, noise, c, STOCHASTIC: constexpr):
    b = bits(y)
    magnitude = b & MAGNITUDE
    sign = b ^ magnitude
    a = tl.minimum(magnitude, tl.load(c + HIGH))
    drop = tl.load(c + DROP)
    mask = (1 << drop) - 1
    if STOCHASTIC:
        below = a & ~mask
        above = tl.where(below == a, below, below + (mask + 1))
        low = number(tl.where(b < 0, above, below) | sign)
        high = number(tl.where(b < 0, below, above) | sign)
        r = tl.where(rises(number(a | sign), low, high, noise), high, low)
    else:
        r = number(((a + (mask >> 1) + ((a >> drop) & 1)) & ~mask) | sign)
    return r


@triton.jit
def rank_of(y, noise, c, LOOKED_UP: constexpr, STEPS: constexpr, STOCHASTIC: constexpr):
    """How many of the cut points are at most y."""
    b = bits(y)
    magnitude = b & MAGNITUDE
    low, shift = tl.load(c + BUCKET_LOW), tl.load(c + BUCKET_SHIFT)
    m = tl.minimum(tl.maximum(magnitude, low), tl.load(c + BUCKET_HIGH)) - low
    place = (m >> shift) + tl.where(b < 0, tl.load(c + BUCKET_COUNT), 0)
    entry = tl.load(c + tl.load(c + BUCKETS) + place)
    if LOOKED_UP:
        reached = (m & ((1 << shift) - 1)) >= ((entry >> 16) & 0xFFFF)
        rank = tl.where(reached, entry >> 8, entry) & 255
        rank = tl.where(magnitude == 0, tl.load(c + ZERO_RANK), rank)
    else:
        rank = tl.where(magnitude == 0, tl.load(c + ZERO_RANK), entry)
        cuts = c + tl.load(c + CUTS)
        for i in tl.static_range(STEPS):
            step: constexpr = 1 << (STEPS - 1 - i)
            rank = tl.where(y >= number(tl.load(cuts + rank + (step - 1))), rank + step, rank)
    if STOCHASTIC:
        rank = tl.minimum(rank, tl.load(c + LAST_RANK) - 1)
        numbers = c + tl.load(c + RANK_NUMBER)
        below, above = number(tl.load(numbers + rank)), number(tl.load(numbers + rank + 1))
        held = tl.minimum(tl.maximum(y, below), above)
        rank = tl.where((rises(held, below, above, noise) & (y > below)) | (y >= above), rank + 1, rank)
    return rank


@triton.jit
def value(y, noise, c, METHOD: constexpr, STEPS: constexpr, STOCHASTIC: constexpr, OVERFLOWS: constexpr, SIGNED_ZERO: constexpr):
    """The number that y becomes. ``noise``: uint32, one word an element, where the rounding is stochastic."""
    if METHOD == _FIXED:
        found = fixed_value(y, c)
    elif METHOD == _FLOAT:
        found = finish(y, float_value(y, noise, c, STOCHASTIC), c, OVERFLOWS, SIGNED_ZERO)
    elif METHOD == _WIDE:
        found = finish(y, wide_value(y, noise, c, STOCHASTIC), c, OVERFLOWS, SIGNED_ZERO)
    else:
        v = tl.load(c + tl.load(c + RANK_VALUE) + rank_of(y, noise, c, METHOD == _LOOKUP, STEPS, STOCHASTIC))
        if SIGNED_ZERO:
            v = tl.where((v & MAGNITUDE) == 0, v | (bits(y) & ~MAGNITUDE), v)
        found = number(tl.where(is_nan(y), by_sign(y, c, NAN_VALUE), v))
    return found


@triton.jit
def code(y, noise, c, METHOD: constexpr, STEPS: constexpr, STOCHASTIC: constexpr, OVERFLOWS: constexpr, SIGNED_ZERO: constexpr):
    """The code of the number that y becomes, int32."""
    if METHOD == _FIXED:
        k = (fixed_value(y, c) * real(c, INVERSE_UNIT)).to(tl.int32) & tl.load(c + CODE_SIGN)
    elif METHOD == _FLOAT or METHOD == _WIDE:
        drop = tl.load(c + DROP)
        if METHOD == _FLOAT:
            v = finish(y, float_value(y, noise, c, STOCHASTIC), c, OVERFLOWS, SIGNED_ZERO)
            magnitude, least = bits(v) & MAGNITUDE, tl.load(c + LEAST)
            subnormal = (number(magnitude) * real(c, INVERSE_UNIT)).to(tl.int32)
            k = tl.where(magnitude < least, subnormal, ((magnitude - least) >> drop) + (1 << (23 - drop)))
        else:
            v = finish(y, wide_value(y, noise, c, STOCHASTIC), c, OVERFLOWS, SIGNED_ZERO)
            k = (bits(v) & MAGNITUDE) >> drop
        k = k | tl.where(bits(v) < 0, tl.load(c + CODE_SIGN), 0)
        if OVERFLOWS:
            k = tl.where((bits(y) & MAGNITUDE) >= tl.load(c + OVERFLOW_FROM), by_sign(y, c, OVERFLOW_CODE), k)
    else:
        k = tl.load(c + tl.load(c + RANK_CODE) + rank_of(y, noise, c, METHOD == _LOOKUP, STEPS, STOCHASTIC))
        if SIGNED_ZERO:
            k = tl.where((k == tl.load(c + ZERO_CODE)) & (bits(y) < 0), tl.load(c + NEGATIVE_ZERO_CODE), k)
    return tl.where(is_nan(y), by_sign(y, c, NAN_CODE), k)
