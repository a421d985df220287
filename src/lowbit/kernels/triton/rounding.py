"""Numbers in units of a format to numbers and codes of the format, in Triton; csrc/kernels/codecs.h holds the same in C++."""

import triton
import triton.language as tl
from triton.language import constexpr

from lowbit.kernels.cpu.codec import FIXED, FLOAT, LOOKUP, WIDE
from lowbit.kernels.op import interpreted
from lowbit.kernels.triton.codec import INTEGERS, PARAMETERS, UNIFORM

_FIXED, _FLOAT, _WIDE, _LOOKUP, _UNIFORM = (constexpr(method) for method in (FIXED, FLOAT, WIDE, LOOKUP, UNIFORM))
_INTEGERS, INTERPRETED = constexpr(INTEGERS), constexpr(interpreted())
(
    HIGH, LOW, MAGIC, INVERSE_UNIT, LEAST, LIFT, DROP, OVERFLOW_FROM, OVERFLOW_VALUE, OVERFLOW_VALUE_1, OVERFLOW_CODE, OVERFLOW_CODE_1,
    CODE_SIGN, NAN_VALUE, NAN_VALUE_1, NAN_CODE, NAN_CODE_1, BUCKET_LOW, BUCKET_HIGH, BUCKET_SHIFT, BUCKET_COUNT, ZERO_RANK, LAST_RANK,
    ZERO_CODE, NEGATIVE_ZERO_CODE, BUCKETS, CUTS, RANK_VALUE, RANK_NUMBER, RANK_CODE, OF_ZERO,
    UNIFORM_LOW, UNIFORM_HIGH, UNIFORM_INVERSE, UNIFORM_TABLE,
) = (constexpr(i) for i in range(len(PARAMETERS)))  # fmt: skip

MAGNITUDE = constexpr(0x7FFFFFFF)
SIGN = constexpr(-0x80000000)
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
def pick(table, k):
    """A 32-bit word of a table, one an element, where the elements are: ``tl.load`` would move them between threads first."""
    if INTERPRETED:
        found = tl.load(table + k)
    else:
        at = (table + k).to(tl.int64)
        found = tl.inline_asm_elementwise("ld.global.nc.b32 $0, [$1];", "=r,l", [at], dtype=tl.int32, is_pure=True, pack=1)
    return found


@triton.jit
def pick_two(table, k):
    """Two words that lie together."""
    if INTERPRETED:
        first, second = tl.load(table + 2 * k), tl.load(table + 2 * k + 1)
    else:
        at = (table + 2 * k).to(tl.int64)
        first, second = tl.inline_asm_elementwise(
            "ld.global.nc.v2.b32 {$0, $1}, [$2];", "=r,=r,l", [at], dtype=(tl.int32, tl.int32), is_pure=True, pack=1
        )
    return first, second


@triton.jit
def rises(y, low, high, noise):
    """The upper 24 bits of noise against the share of the gap."""
    share = tl.div_rn(y - low, high - low)
    return (noise >> 8).to(tl.float32) < share * 16777216.0


@triton.jit
def fixed_value(y, noise, c, STOCHASTIC: constexpr):
    magic = real(c, MAGIC)
    t = tl.minimum(tl.maximum(y, real(c, LOW)), real(c, HIGH))
    r = (t + magic) - magic
    if STOCHASTIC:
        inverse = real(c, INVERSE_UNIT)
        unit = number(0x7F000000 - bits(inverse))
        r = tl.where(r > t, r - unit, r)
        r = tl.where((noise >> 8).to(tl.float32) < (t - r) * (inverse * 16777216.0), r + unit, r)
    return r


@triton.jit
def finish(y, r, c, OVERFLOWS: constexpr, SIGNED_ZERO: constexpr):
    """What a minifloat does with zeros and with what overflows."""
    if not SIGNED_ZERO:
        r = r + 0.0
    if OVERFLOWS:
        r = tl.where((bits(y) & MAGNITUDE) >= tl.load(c + OVERFLOW_FROM), number(by_sign(y, c, OVERFLOW_VALUE)), r)
    return r


@triton.jit
def float_value(y, noise, c, signs, STOCHASTIC: constexpr):
    b = bits(y)
    a = number(tl.minimum(b & MAGNITUDE, tl.load(c + HIGH)))
    magic = number(tl.maximum(bits(a) & INFINITE, tl.load(c + LEAST)) + tl.load(c + LIFT))
    r = (a + magic) - magic
    if STOCHASTIC:  # the share of the gap of a power of two, exactly; below zero it is counted from the other end
        unit = number(bits(magic) - 0x0B800000)
        r = tl.where(r > a, r - unit, r)
        over = a - r
        share = tl.where(b < 0, unit - over, over) * number(0x7F000000 - bits(unit))
        r = tl.where(((noise >> 8).to(tl.float32) < share * 16777216.0) ^ (b < 0), r + unit, r)
    return number((bits(r) & MAGNITUDE) | (b & signs))


@triton.jit
def wide_value(y, noise, c, signs, STOCHASTIC: constexpr):
    b = bits(y)
    magnitude = b & MAGNITUDE
    sign = b & signs
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
def rank_of(y, noise, c, METHOD: constexpr, STEPS: constexpr, STOCHASTIC: constexpr):
    """How many of the cut points are at most y."""
    b = bits(y)
    magnitude = b & MAGNITUDE
    if METHOD == _UNIFORM:
        if INTERPRETED:  # where the larger one of a number and NaN is NaN
            y = tl.where(is_nan(y), 0.0, y)
        low = real(c, UNIFORM_LOW)
        place = tl.minimum(tl.maximum(y * real(c, UNIFORM_INVERSE), low), real(c, UNIFORM_HIGH)) + _INTEGERS
        cut, rank = pick_two(c + (tl.load(c + UNIFORM_TABLE) - 2 * bits(low + _INTEGERS).to(tl.int64)), bits(place).to(tl.int64))
        rank = tl.where(y >= number(cut), rank + 1, rank)
    else:
        low, shift = tl.load(c + BUCKET_LOW), tl.load(c + BUCKET_SHIFT)
        m = tl.minimum(tl.maximum(magnitude, low), tl.load(c + BUCKET_HIGH)) - low
        place = (m >> shift) + tl.where(b < 0, tl.load(c + BUCKET_COUNT), 0)
        entry = pick(c + tl.load(c + BUCKETS), place)
        if METHOD == _LOOKUP:
            reached = (m & ((1 << shift) - 1)) >= ((entry >> 16) & 0xFFFF)
            rank = tl.where(reached, entry >> 8, entry) & 255
            rank = tl.where(magnitude == 0, tl.load(c + ZERO_RANK), rank)
        else:
            rank = tl.where(magnitude == 0, tl.load(c + ZERO_RANK), entry)
            cuts = c + tl.load(c + CUTS)
            for i in tl.static_range(STEPS):
                rank = tl.where(y >= number(pick(cuts + ((1 << (STEPS - 1 - i)) - 1), rank)), rank + (1 << (STEPS - 1 - i)), rank)
    if STOCHASTIC:
        rank = tl.minimum(rank, tl.load(c + LAST_RANK) - 1)
        numbers = c + tl.load(c + RANK_NUMBER)
        below, above = number(pick(numbers, rank)), number(pick(numbers + 1, rank))
        held = tl.minimum(tl.maximum(y, below), above)
        rank = tl.where((rises(held, below, above, noise) & (y > below)) | (y >= above), rank + 1, rank)
    return rank


@triton.jit
def value(
    y, noise, c, signs, METHOD: constexpr, STEPS: constexpr, STOCHASTIC: constexpr, OVERFLOWS: constexpr, SIGNED_ZERO: constexpr,
    NANS: constexpr,
):  # fmt: skip
    """The number that y becomes.

    Args:
        noise: uint32, one word an element, where the rounding is stochastic.
        signs: the bit of the sign; 0 for what is to be zero without one.
        NANS: 0: NaN becomes some number; 1: it becomes one thing; 2: it becomes another one if it is negative.
    """
    if METHOD == _FIXED:
        found = fixed_value(y, noise, c, STOCHASTIC)
    elif METHOD == _FLOAT:
        found = finish(y, float_value(y, noise, c, signs, STOCHASTIC), c, OVERFLOWS, SIGNED_ZERO)
    elif METHOD == _WIDE:
        found = finish(y, wide_value(y, noise, c, signs, STOCHASTIC), c, OVERFLOWS, SIGNED_ZERO)
    else:
        v = pick(c + tl.load(c + RANK_VALUE), rank_of(y, noise, c, METHOD, STEPS, STOCHASTIC))
        if SIGNED_ZERO:
            v = tl.where((v & MAGNITUDE) == 0, v | (bits(y) & signs), v)
        found = number(v)
    if NANS == 2:
        found = tl.where(is_nan(y), number(by_sign(y, c, NAN_VALUE)), found)
    elif NANS == 1:
        found = tl.where(is_nan(y), real(c, NAN_VALUE), found)
    return found


@triton.jit
def code(y, noise, c, signs, METHOD: constexpr, STEPS: constexpr, STOCHASTIC: constexpr, OVERFLOWS: constexpr, SIGNED_ZERO: constexpr):
    """The code of the number that y becomes, int32."""
    if METHOD == _FIXED:
        k = (fixed_value(y, noise, c, STOCHASTIC) * real(c, INVERSE_UNIT)).to(tl.int32) & tl.load(c + CODE_SIGN)
    elif METHOD == _FLOAT or METHOD == _WIDE:
        drop = tl.load(c + DROP)
        if METHOD == _FLOAT:
            v = finish(y, float_value(y, noise, c, signs, STOCHASTIC), c, OVERFLOWS, SIGNED_ZERO)
            magnitude, least = bits(v) & MAGNITUDE, tl.load(c + LEAST)
            subnormal = (number(magnitude) * real(c, INVERSE_UNIT)).to(tl.int32)
            k = tl.where(magnitude < least, subnormal, ((magnitude - least) >> drop) + (1 << (23 - drop)))
        else:
            v = finish(y, wide_value(y, noise, c, signs, STOCHASTIC), c, OVERFLOWS, SIGNED_ZERO)
            k = (bits(v) & MAGNITUDE) >> drop
        k = k | tl.where(bits(v) < 0, tl.load(c + CODE_SIGN), 0)
        if OVERFLOWS:
            k = tl.where((bits(y) & MAGNITUDE) >= tl.load(c + OVERFLOW_FROM), by_sign(y, c, OVERFLOW_CODE), k)
    else:
        k = pick(c + tl.load(c + RANK_CODE), rank_of(y, noise, c, METHOD, STEPS, STOCHASTIC))
        if SIGNED_ZERO:
            k = tl.where((k == tl.load(c + ZERO_CODE)) & ((bits(y) & signs) != 0), tl.load(c + NEGATIVE_ZERO_CODE), k)
    return tl.where(is_nan(y), by_sign(y, c, NAN_CODE), k)
