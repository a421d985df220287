"""Blocks of numbers to their scales, and to numbers or codes of a grid, in Triton: one read of each number, one write.

A program takes BLOCKS blocks of WIDTH numbers, filled up to PADDED; or several share a block that is longer. Arithmetic is
float32, each operation rounded once and never fused, in the order of ``quantizers/grid.py``; csrc/kernels/blocks.h and scales.h hold
the same in C++.
"""

import triton
import triton.language as tl
from triton.language import constexpr

from lowbit.kernels.cpu.codec import FIXED
from lowbit.kernels.op import interpreted
from lowbit.kernels.triton.rounding import HIGH, INFINITE, LOW, MAGNITUDE, MANTISSA, OF_ZERO, SIGN, bits, code, number, real, value

GIVEN, ABSMAX, POWER_OF_TWO, MINMAX, SIGN_SPLIT, EXTREMES, NO_RULE = (constexpr(i) for i in range(7))
AS_THEY_ARE, POWERS_AS_THEY_ARE = constexpr(-1), constexpr(-2)
_FIXED = constexpr(FIXED)
NO_NOISE, PHILOX, WORDS = (constexpr(i) for i in range(3))

INTERPRETED = constexpr(interpreted())
QUIET_NAN = constexpr(0x7FC00000)
LARGEST = constexpr(0x7F7FFFFF)


@triton.jit
def widened(x):
    return x.to(tl.float32)


@triton.jit
def put(at, v, inside):
    """Numbers to memory, rounded to the dtype there."""
    if at.dtype.element_ty == tl.bfloat16 and INTERPRETED:  # the interpreter cuts instead of rounding
        b = bits(narrowed(v)) >> 16
        tl.store(at, b.to(tl.int16).to(tl.bfloat16, bitcast=True), mask=inside)
    else:
        tl.store(at, v.to(at.dtype.element_ty), mask=inside)


@triton.jit
def held(scale):
    """Inf becomes the largest number."""
    return number(tl.minimum(bits(scale), LARGEST))


@triton.jit
def quotient(x, scale):
    """x / scale; zero where the scale is."""
    return tl.where(scale == 0, 0.0, tl.div_rn(x, scale))


@triton.jit
def inverse_of(scale):
    """A power of two that brings scales near one, the scale there, and its inverse."""
    field = bits(scale) >> 23
    near = number(tl.minimum(tl.maximum(254 - field, 1), 253) << 23)
    held_scale = scale * near
    return near, held_scale, tl.where(scale == 0, 0.0, tl.div_rn(held_scale * 0.0 + 1.0, held_scale))


@triton.jit
def quick_quotient(x, near, held_scale, inverse, SIGNED: constexpr):
    """x / scale as ``quotient`` rounds it, where that is no subnormal number, by Markstein's theorem (1990). Of SIGNED zeros also the sign.

    The inverse is rounded correctly and q, after one correction, is within one unit in the last place; then the remainder x - q s is
    exact and the next correction gives the number nearest to the quotient.
    """
    a = x * near
    q = a * inverse
    q = tl.fma(tl.fma(q, -held_scale, a), inverse, q)
    q = tl.fma(tl.fma(q, -held_scale, a), inverse, q)
    if SIGNED:
        q = number((bits(q) & MAGNITUDE) | (bits(x) & ~MAGNITUDE))
    return q


@triton.jit
def signs_of(scale):
    """The bit of the sign; none where the scale is zero and so is everything."""
    return tl.where(scale == 0, 0, SIGN)


@triton.jit
def power_of_two(a, top_exponent, threshold):
    """2**(floor(log2 a) - top), one more where the mantissa is at least the threshold; exponents held to -127..127."""
    lifted = bits(number(a) * 16777216.0)
    tiny = (a >> 23) == 0
    field = tl.where(tiny, (lifted >> 23) - 24, a >> 23)
    up = (tl.where(tiny, lifted, a) & MANTISSA) >= threshold
    e = field - (127 + top_exponent) + up.to(tl.int32)
    e = tl.minimum(tl.maximum(e, -127), 127)
    return tl.where(a == 0, 0.0, number(tl.where(e == -127, 0x00400000, (e + 127) << 23)))


@triton.jit
def rounded(x):
    """To integers, ties to even, signs of zeros kept."""
    magnitude = bits(x) & MAGNITUDE
    small = number(bits((number(magnitude) + 8388608.0) - 8388608.0) | (bits(x) & ~MAGNITUDE))
    return tl.where(magnitude < 0x4B000000, small, x)


@triton.jit
def scales_of(most, low, high, RULE: constexpr, rule, top):
    """Scale and zero point, or scale of negative numbers, or smallest number, of blocks with these extremes.

    ``rule``: the float32 numbers steps, low and high, the exponent of the top and the threshold.
    """
    second = low
    if RULE == POWER_OF_TWO:
        s = power_of_two(most, tl.load(rule + 3), tl.load(rule + 4))
    elif RULE == MINMAX:
        steps, least, largest = real(rule, 0), real(rule, 1), real(rule, 2)
        extent = high - low
        direct = held(tl.div_rn(extent, steps))
        halved = held(2.0 * held(tl.div_rn(high * 0.5 - low * 0.5, steps)))
        s = tl.where(bits(extent) == INFINITE, halved, direct)
        exact = least - tl.div_rn(low, tl.where(most >= INFINITE, number(tl.zeros_like(most) + QUIET_NAN), s))
        zero = rounded(exact)
        zero = tl.where((bits(zero) & MAGNITUDE) >= INFINITE, 0.0, zero)
        second = tl.minimum(tl.maximum(zero, least), largest)
    elif RULE == SIGN_SPLIT:
        least, largest = real(rule, 1), real(rule, 2)
        s = held(tl.div_rn(high, largest) + 0.0)
        second = tl.where(most >= INFINITE, number(tl.zeros_like(most) + QUIET_NAN), held(tl.div_rn(low, least) + 0.0))
    elif RULE == EXTREMES:
        s = high
    else:
        s = held(tl.div_rn(number(most), top))
    return tl.where(most >= INFINITE, number(tl.zeros_like(most) + QUIET_NAN), s), second


@triton.jit
def words_of(at, quads, key0, key1, words, inside, NOISE: constexpr, QUADS: constexpr):
    """A word of noise for each element, uint32. ``quads``: every fourth index, divided by four, where those come in fours."""
    if NOISE == WORDS:
        found = tl.load(words + at, mask=inside, other=0).to(tl.uint32)
    elif QUADS:
        a, b, c, d = four_words(quads, key0, key1)
        found = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))
    else:
        a, b, c, d = four_words(at >> 2, key0, key1)
        low = tl.where((at & 1) == 0, a, b)
        high = tl.where((at & 1) == 0, c, d)
        found = tl.where((at & 2) == 0, low, high)
    return found


@triton.jit
def four_words(counter, key0, key1):
    """Philox4x32-10, as philox.py has it."""
    zero = (counter * 0).to(tl.uint32)
    k0, k1 = key0.to(tl.uint32, bitcast=True), key1.to(tl.uint32, bitcast=True)
    return tl.random.philox_impl(counter.to(tl.uint32), (counter >> 32).to(tl.uint32), zero, zero, k0, k1)


@triton.jit
def folded(v, SIZE: constexpr, BLOCKS: constexpr):
    """Sums along the last axis of float64, halves added until one is left."""
    if SIZE == 1:
        found = tl.reshape(v, (BLOCKS,))
    else:
        first, second = tl.split(tl.permute(tl.reshape(v, (BLOCKS, 2, SIZE // 2)), (0, 2, 1)))
        found = folded(first + second, SIZE // 2, BLOCKS)
    return found


@triton.jit
def places(
    blocks, per_row, columns, rows, strips, width, chunks, EVEN: constexpr, LONG: constexpr, HEIGHT: constexpr, WIDTH: constexpr,
    PADDED_WIDTH: constexpr, PADDED: constexpr, BLOCKS: constexpr,
):  # fmt: skip
    """The blocks of a program, which part of a long one, which blocks exist, where their numbers lie and which of those exist."""
    block = tl.program_id(0).to(tl.int64)
    part = block * 0
    if LONG:
        part = block % chunks
        block = block // chunks
    block = block * BLOCKS + tl.arange(0, BLOCKS)
    here = block < blocks
    place = tl.arange(0, PADDED)
    if LONG:
        place = part * PADDED + place
    if EVEN:  # blocks lie one after another
        inside = here[:, None]
        if LONG:
            at = block[:, None] * width + place[None, :]
            inside = inside & (place < width)[None, :]
        else:
            at = block[:, None] * WIDTH + place[None, :]
            if WIDTH != PADDED:
                inside = inside & (place < WIDTH)[None, :]
    else:
        down, right = place // PADDED_WIDTH, place % PADDED_WIDTH
        strip = block // per_row
        row = (strip % strips * HEIGHT)[:, None] + down[None, :]
        column = (block % per_row * width)[:, None] + right[None, :]
        at = ((strip // strips * rows)[:, None] + row) * columns + column
        inside = here[:, None] & (row < rows) & (column < columns) & ((down < HEIGHT) & (right < width))[None, :]
    return block, part, here, at, inside


@triton.jit(do_not_specialize=["key0", "key1"])
def emulate(
    x_at, out_at, codes_at, scale_at, second_at, chosen_at, words_at,
    c, stored, scale_unit, given_scale, given_zero, given_offset, given_negative, given_inverse, starts, top, tops, shares,
    blocks, per_row, columns, rows, strips, width, chunks, key0, key1, rule,
    RULE: constexpr, VALUE: constexpr, CODE: constexpr, STEPS: constexpr, STOCHASTIC: constexpr, OVERFLOWS: constexpr,
    SIGNED_ZERO: constexpr, STORED: constexpr, STORED_STEPS: constexpr, STORED_OVERFLOWS: constexpr, STORED_SIGNED_ZERO: constexpr,
    UNDER: constexpr, POWERS: constexpr, QUICK: constexpr, NANS: constexpr, SCALE: constexpr, ZERO: constexpr, OFFSET: constexpr,
    NEGATIVE: constexpr, INVERSE: constexpr,
    OUT: constexpr, CODES: constexpr, SCALE_OUT: constexpr, SECOND_OUT: constexpr, CANDIDATES: constexpr, NOISE: constexpr,
    QUADS: constexpr, EVEN: constexpr, TABLES: constexpr, LONG: constexpr, HEIGHT: constexpr, WIDTH: constexpr, PADDED_WIDTH: constexpr,
    PADDED: constexpr, BLOCKS: constexpr,
):  # fmt: skip
    """See ``launch.run`` for what the arguments are."""
    block, part, here, at, inside = places(
        blocks, per_row, columns, rows, strips, width, chunks, EVEN, LONG, HEIGHT, WIDTH, PADDED_WIDTH, PADDED, BLOCKS
    )
    quads = block
    if QUADS:
        if LONG:
            quads = block[:, None] * (width // 4) + (part * (PADDED // 4) + tl.arange(0, PADDED // 4))[None, :]
        else:
            quads = block[:, None] * (WIDTH // 4) + tl.arange(0, PADDED // 4)[None, :]
    x = widened(tl.load(x_at + at, mask=inside, other=0.0))

    if RULE == NO_RULE or RULE == GIVEN:
        if SCALE:
            scale = tl.load(given_scale + block, mask=here, other=1.0)
        if ZERO:
            zero = tl.load(given_zero + block, mask=here, other=0.0)
        if OFFSET:
            offset = tl.load(given_offset + block, mask=here, other=0.0)
        if NEGATIVE:
            negative = tl.load(given_negative + block, mask=here, other=1.0)
        if INVERSE:
            inverse = tl.load(given_inverse + block, mask=here, other=1.0)
    else:
        most = tl.max(bits(x) & MAGNITUDE, 1)
        low, high = number(most), number(most)
        if RULE == MINMAX or RULE == SIGN_SPLIT:
            low, high = tl.min(tl.minimum(x, 0.0), 1), tl.max(tl.maximum(x, 0.0), 1)
        elif RULE == EXTREMES:
            low, high = tl.min(tl.where(inside, x, float("inf")), 1), tl.max(tl.where(inside, x, float("-inf")), 1)
            low = tl.where(most >= INFINITE, number(tl.zeros_like(most) + QUIET_NAN), low)
        scale, second = scales_of(most, low, high, RULE, rule, real(top, 0))
        written = block
        if LONG:
            written = block * chunks + part
        if SCALE_OUT:
            tl.store(scale_at + written, scale, mask=here)
        if SECOND_OUT:
            tl.store(second_at + written, second, mask=here)
        if CANDIDATES:
            least, kept, chosen = tl.zeros_like(scale).to(tl.float64), scale, tl.zeros_like(most)
            for k in range(CANDIDATES):
                s, _ = scales_of(most, low, high, RULE, rule, number(tl.load(tops + k)))
                s = s * number(tl.load(shares + k))
                s = as_stored(s, stored, scale_unit, STORED, STORED_STEPS, STORED_OVERFLOWS, STORED_SIGNED_ZERO, UNDER)
                if QUICK:
                    near, held_scale, inverse = inverse_of(s)
                    y = quick_quotient(x, near[:, None], held_scale[:, None], inverse[:, None], VALUE != _FIXED)
                else:
                    y = quotient(x, s[:, None])
                table = c
                if TABLES:
                    table = c + tl.load(starts + k)
                v = value(y, y, table, signs_of(s)[:, None], VALUE, STEPS, False, OVERFLOWS, SIGNED_ZERO, 0) * s[:, None]
                error = v - x
                total = folded(tl.where(inside, error * error, 0.0).to(tl.float64), PADDED, BLOCKS)
                better = (total < least) | (k == 0)
                least, kept, chosen = tl.where(better, total, least), tl.where(better, s, kept), tl.where(better, k, chosen)
            scale = kept
            if TABLES:
                c = c + tl.load(starts + chosen)[:, None]
            if SCALE_OUT:
                tl.store(chosen_at + block, chosen.to(tl.uint8), mask=here)
        else:
            scale = as_stored(scale, stored, scale_unit, STORED, STORED_STEPS, STORED_OVERFLOWS, STORED_SIGNED_ZERO, UNDER)
            if RULE == SIGN_SPLIT:
                negative = as_stored(second, stored, scale_unit, STORED, STORED_STEPS, STORED_OVERFLOWS, STORED_SIGNED_ZERO, UNDER)
            elif RULE == MINMAX:
                zero = second

    if OUT or CODES:
        y, signs = x, SIGN
        SIGNED: constexpr = VALUE != _FIXED or CODES
        if POWERS or QUICK:
            signs = signs_of(scale)[:, None]
        if OFFSET:
            y = y - offset[:, None]
        if INVERSE:
            y = y * inverse[:, None]
        elif SCALE:
            if NEGATIVE:
                y = quotient(y, tl.where(y < 0, negative[:, None], scale[:, None]))
            elif POWERS:
                s = bits(scale)  # 2**e, 0 or NaN; 2**-e is a number, and products with it are rounded as quotients are
                inverted = number(tl.where(s == 0x00400000, 0x7F000000, tl.where(s == 0x7F000000, 0x00400000, 0x7F000000 - s)))
                inverted = tl.where((s & MAGNITUDE) >= INFINITE, scale, inverted)
                y = y * tl.where(s == 0, 0.0, inverted)[:, None]
            elif QUICK:
                near, held_scale, inverse = inverse_of(scale)
                y = quick_quotient(y, near[:, None], held_scale[:, None], inverse[:, None], SIGNED)
            else:
                y = quotient(y, scale[:, None])
        if ZERO:
            moved = rounded_near(y) + zero[:, None]
            y = tl.where((bits(y) & MAGNITUDE) > INFINITE, y, tl.minimum(tl.maximum(moved, real(c, LOW)), real(c, HIGH)))
        noise = quads
        if NOISE:
            noise = words_of(at, quads, key0, key1, words_at, inside, NOISE, QUADS)
        if OUT:
            v = value(y, noise, c, signs, VALUE, STEPS, STOCHASTIC, OVERFLOWS, SIGNED_ZERO, NANS)
            if ZERO:
                v = v - zero[:, None]
            if SCALE:
                if NEGATIVE:
                    v = v * tl.where(v < 0, negative[:, None], scale[:, None])
                else:
                    v = v * scale[:, None]
            if OFFSET:
                v = v + offset[:, None]
            put(out_at + at, v, inside)
        if CODES:
            k = code(y, noise, c, signs, CODE, STEPS, STOCHASTIC, OVERFLOWS, SIGNED_ZERO)
            tl.store(codes_at + at, k.to(codes_at.dtype.element_ty), mask=inside)


@triton.jit
def rounded_near(y):
    """To integers for numbers up to 2**21, which larger ones become."""
    small = tl.minimum(tl.maximum(y, -2097152.0), 2097152.0)
    return (small + 12582912.0) - 12582912.0


@triton.jit
def as_stored(
    scale, stored, scale_unit, STORED: constexpr, STEPS: constexpr, OVERFLOWS: constexpr, SIGNED_ZERO: constexpr, UNDER: constexpr
):
    """Scales as they are stored: by a cast, as multiples of one number, or as they are."""
    if STORED == AS_THEY_ARE:
        found = scale
    elif STORED == POWERS_AS_THEY_ARE:
        found = tl.where(scale == 0, real(stored, OF_ZERO), scale)
    elif UNDER:
        unit = tl.load(scale_unit)
        y = quotient(scale, unit)
        found = value(y, y, stored, SIGN, STORED, STEPS, False, OVERFLOWS, SIGNED_ZERO, 2) * unit
    else:
        found = value(scale, scale, stored, SIGN, STORED, STEPS, False, OVERFLOWS, SIGNED_ZERO, 2)
    return found


@triton.jit
def piece_sums(x_at, sums_at, pieces, width, columns, per_block, PADDED: constexpr, PIECES: constexpr):
    """Sums of magnitudes, in float64 and in the order of ``scaling.fixed_sum``, of pieces of PADDED numbers of each block."""
    piece = tl.program_id(0).to(tl.int64) * PIECES + tl.arange(0, PIECES)
    per_row = (columns + width - 1) // width
    block = piece // per_block
    inner = (piece % per_block * PADDED)[:, None] + tl.arange(0, PADDED)[None, :]
    column = (block % per_row * width)[:, None] + inner
    inside = (piece < pieces)[:, None] & (inner < width) & (column < columns)
    x = widened(tl.load(x_at + (block // per_row * columns)[:, None] + column, mask=inside, other=0.0))
    tl.store(sums_at + piece, folded(number(bits(x) & MAGNITUDE).to(tl.float64), PADDED, PIECES), mask=piece < pieces)


@triton.jit
def sums_of_sums(sums_at, out_at, pieces, n, per_block, PADDED: constexpr, PIECES: constexpr):
    """The same of sums: pieces of PADDED of the n of each block."""
    piece = tl.program_id(0).to(tl.int64) * PIECES + tl.arange(0, PIECES)
    inner = (piece % per_block * PADDED)[:, None] + tl.arange(0, PADDED)[None, :]
    inside = (piece < pieces)[:, None] & (inner < n)
    v = tl.load(sums_at + (piece // per_block * n)[:, None] + inner, mask=inside, other=0.0)
    tl.store(out_at + piece, folded(v, PADDED, PIECES), mask=piece < pieces)


@triton.jit
def decode(
    codes_at, out_at, table, given_scale, given_zero, given_offset, given_negative, count, blocks, per_row, columns, rows, strips,
    width, chunks, SCALE: constexpr, ZERO: constexpr, OFFSET: constexpr, NEGATIVE: constexpr, EVEN: constexpr, LONG: constexpr,
    HEIGHT: constexpr, WIDTH: constexpr, PADDED_WIDTH: constexpr, PADDED: constexpr, BLOCKS: constexpr,
):  # fmt: skip
    """Codes to numbers: (value - zero) * scale + offset."""
    block, _, here, at, inside = places(
        blocks, per_row, columns, rows, strips, width, chunks, EVEN, LONG, HEIGHT, WIDTH, PADDED_WIDTH, PADDED, BLOCKS
    )
    k = tl.load(codes_at + at, mask=inside, other=0).to(tl.int32)
    known = (k >= 0) & (k < count)
    v = tl.load(table + tl.where(known, k, 0))
    v = tl.where(known, v, float("nan"))
    if ZERO:
        v = v - tl.load(given_zero + block, mask=here, other=0.0)[:, None]
    if SCALE:
        s = tl.load(given_scale + block, mask=here, other=0.0)[:, None]
        if NEGATIVE:
            s = tl.where(v < 0, tl.load(given_negative + block, mask=here, other=0.0)[:, None], s)
        v = v * s
    if OFFSET:
        v = v + tl.load(given_offset + block, mask=here, other=0.0)[:, None]
    tl.store(out_at + at, v, mask=inside)


@triton.jit
def hifloat4(
    x_at, out_at, c, stored, blocks, seventh, VALUE: constexpr, STEPS: constexpr, SIGNED_ZERO: constexpr, STORED: constexpr,
    STORED_STEPS: constexpr, STORED_OVERFLOWS: constexpr, STORED_SIGNED_ZERO: constexpr, NANS: constexpr, BLOCKS: constexpr,
):  # fmt: skip
    """64 numbers share a scale, 8 and 4 of them an exponent bit each; quantizers/hifloat4.py holds the definition."""
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    at = block[:, None] * 64 + tl.arange(0, 64)[None, :]
    inside = (block < blocks)[:, None]
    x = tl.reshape(widened(tl.load(x_at + at, mask=inside, other=0.0)), (BLOCKS, 8, 2, 4))
    four = tl.max(bits(x) & MAGNITUDE, 3)
    eight = tl.max(four, 2)
    most = tl.max(eight, 1)
    most = tl.where(most >= INFINITE, QUIET_NAN, most)
    level1 = narrowed(number(most) * real(seventh, 0))
    level1 = value(level1, level1, stored, SIGN, STORED, STORED_STEPS, False, STORED_OVERFLOWS, STORED_SIGNED_ZERO, 2)
    r = narrowed(tl.div_rn(tl.zeros_like(level1) + 1.0, level1))[:, None]
    e2 = number(eight) * r >= 4.0
    half = tl.where(e2, 0.5, 1.0)
    e3 = number(four) * r[:, :, None] * half[:, :, None] >= 2.0
    inverse = r[:, :, None] * half[:, :, None] * tl.where(e3, 0.5, 1.0)
    unit = (level1[:, None] * tl.where(e2, 2.0, 1.0))[:, :, None] * tl.where(e3, 2.0, 1.0)
    y = x * inverse[:, :, :, None]
    v = value(y, y, c, SIGN, VALUE, STEPS, False, False, SIGNED_ZERO, NANS) * unit[:, :, :, None]
    put(out_at + at, tl.reshape(v, (BLOCKS, 64)), inside)


@triton.jit
def narrowed(x):
    """Rounded to bfloat16, ties to even."""
    b = bits(x)
    return tl.where((b & MAGNITUDE) > INFINITE, x, number((b + 0x7FFF + ((b >> 16) & 1)) & -65536))
