"""y = x W^T in Triton for the layout of ``linear_layout``: with few rows of x, and from codes to numbers for many."""

import triton
import triton.language as tl
from triton.language import constexpr

from lowbit.kernels.op import interpreted
from lowbit.kernels.triton.rounding import number, pick

INTERPRETED = constexpr(interpreted())


@triton.jit
def read(words, table, dtype: constexpr, BITS: constexpr, KIND: constexpr, DECODE: constexpr):
    """(..., 4) words to (..., 2 or 4, 2, 2, 2): (chunk, p, s, h, c) of 4-bit codes, (s, p, h, c) of 8-bit codes."""
    if BITS == 4:
        if INTERPRETED:
            o0, o1, o2, o3, o4, o5, o6, o7 = (
                looked_up(words, table, dtype, 4, 0, 0, KIND), looked_up(words, table, dtype, 4, 0, 1, KIND),
                looked_up(words, table, dtype, 4, 0, 2, KIND), looked_up(words, table, dtype, 4, 0, 3, KIND),
                looked_up(words, table, dtype, 4, 1, 0, KIND), looked_up(words, table, dtype, 4, 1, 1, KIND),
                looked_up(words, table, dtype, 4, 1, 2, KIND), looked_up(words, table, dtype, 4, 1, 3, KIND),
            )  # fmt: skip
        elif dtype == tl.bfloat16:
            o0, o1, o2, o3, o4, o5, o6, o7 = tl.inline_asm_elementwise(
                DECODE, "=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,r,r", [words], dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16,
                tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True, pack=2,
            )  # fmt: skip
        else:
            o0, o1, o2, o3, o4, o5, o6, o7 = tl.inline_asm_elementwise(
                DECODE, "=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,r,r", [words], dtype=(tl.float16, tl.float16, tl.float16, tl.float16,
                tl.float16, tl.float16, tl.float16, tl.float16), is_pure=True, pack=2,
            )  # fmt: skip
        found = tl.join(tl.join(tl.join(o0, o4), tl.join(o2, o6)), tl.join(tl.join(o1, o5), tl.join(o3, o7)))
    else:
        if INTERPRETED:
            o0, o1, o2, o3 = (
                looked_up(words, table, dtype, 8, 0, 0, 0), looked_up(words, table, dtype, 8, 0, 1, 0),
                looked_up(words, table, dtype, 8, 1, 0, 0), looked_up(words, table, dtype, 8, 1, 1, 0),
            )  # fmt: skip
        elif dtype == tl.bfloat16:
            o0, o1, o2, o3 = tl.inline_asm_elementwise(
                DECODE, "=&r,=&r,=&r,=&r,r,r", [words], dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True, pack=2
            )  # fmt: skip
        else:
            o0, o1, o2, o3 = tl.inline_asm_elementwise(
                DECODE, "=&r,=&r,=&r,=&r,r,r", [words], dtype=(tl.float16, tl.float16, tl.float16, tl.float16), is_pure=True, pack=2
            )  # fmt: skip
        found = tl.join(tl.join(o0, o2), tl.join(o1, o3))
    return found


@triton.jit
def looked_up(words, table, dtype: constexpr, BITS: constexpr, WORD: constexpr, REGISTER: constexpr, KIND: constexpr):
    """One register of each pair of words, as ``decoding.places`` has it; for the interpreter, which has no assembly."""
    pairs = tl.reshape(words, words.shape[:-1] + [2, 2])
    first, second = tl.split(pairs)
    word = second if WORD else first
    low, high = code_in(word, REGISTER, 0, BITS, KIND), code_in(word, REGISTER, 1, BITS, KIND)
    both = tl.join(tl.load(table + low), tl.load(table + high))
    return tl.reshape(both, words.shape).to(dtype)


@triton.jit
def code_in(word, register, half, BITS: constexpr, KIND: constexpr):
    """The code of a register and half, as ``decoding.places`` has it."""
    if BITS == 8:
        found = (word >> (8 - 8 * register + 16 * half)) & 255
    elif KIND == 0:
        found = (word >> (4 * register + 16 * half)) & 15
    elif KIND == 1:
        found = (word >> (8 * register + 4 * half)) & 15
    else:
        part = word >> (16 * half)
        straight = ((part >> (6 - 3 * register)) & 7) | (((part >> (15 - 3 * register)) & 1) << 3)
        last = ((part >> 10) & 3) | (((part >> 13) & 3) << 2)
        found = tl.where(register == 3, last, straight)
    return found


@triton.jit
def weights(
    w_at, scale_at, row_tile, first, tiles, row_tiles, chunks, BITS: constexpr, NARROW: constexpr, SHIFT: constexpr,
    ROW_TILES: constexpr, TILES: constexpr, SAFE: constexpr,
):  # fmt: skip
    """Words of ROW_TILES tiles of rows and TILES tiles of columns from ``first`` (one a warp) on, and of scales where those are NARROW."""
    lane = tl.arange(0, 32)[:, None, None, None]
    row = row_tile + tl.arange(0, ROW_TILES)[None, None, :, None]
    tile = first[None, :, None, None] + tl.arange(0, TILES)[None, None, None, :]
    at = ((row.to(tl.int64) * tiles + tile) * 128 + lane * 4)[:, :, :, :, None] + tl.arange(0, 4)[None, None, None, None, :]
    inside = (row < row_tiles) & (tile < tiles)
    if SAFE:
        words = tl.load(w_at + at)
    else:
        words = tl.load(w_at + at, mask=inside[:, :, :, :, None], other=0)
    scales = words
    if NARROW:
        CHUNKS: constexpr = TILES if BITS == 4 else TILES // 2
        chunk = (first * CHUNKS // TILES)[None, :, None, None] + tl.arange(0, CHUNKS)[None, None, None, :]
        eighth = lane // 4 * NARROW + (lane % 4 // 2 if NARROW == 2 else 0)
        at = (row.to(tl.int64) * chunks + chunk) * (8 * NARROW) + eighth
        inside = (row < row_tiles) & (chunk < chunks)
        if SHIFT >= 0:  # four bytes: h, chunk
            scales = tl.load(scale_at + at, mask=inside, other=0)
        else:  # two pairs of bfloat16
            scales = tl.join(tl.load(scale_at + 2 * at, mask=inside, other=0), tl.load(scale_at + 2 * at + 1, mask=inside, other=0))
    return words, scales


@triton.jit
def laid_out(
    words, scales, table, lift, dtype: constexpr, BITS: constexpr, KIND: constexpr, DECODE: constexpr, NARROW: constexpr,
    SHIFT: constexpr, ROW_TILES: constexpr, TILES: constexpr, WARPS: constexpr,
):  # fmt: skip
    """What ``weights`` read as numbers (WARPS, 16 ROW_TILES, columns), times their scales where those are NARROW."""
    found = read(words, table, dtype, BITS, KIND, DECODE)
    if BITS == 4:
        found = tl.reshape(found, (8, 4, WARPS, ROW_TILES, TILES, 2, 2, 2, 2, 2))  # g t w R C chunk p s h c
        found = tl.permute(found, (2, 3, 8, 0, 4, 5, 7, 1, 9, 6))  # w R h g C chunk s t c p
        CHUNKS: constexpr = TILES
    else:
        found = tl.reshape(found, (8, 4, WARPS, ROW_TILES, TILES // 2, 2, 2, 2, 2, 2))  # g t w R C chunk s p h c
        found = tl.permute(found, (2, 3, 8, 0, 4, 5, 6, 1, 9, 7))
        CHUNKS: constexpr = TILES // 2
    if NARROW:
        if SHIFT >= 0:
            s = tl.join(tl.join(scales & 255, (scales >> 16) & 255), tl.join((scales >> 8) & 255, (scales >> 24) & 255))
            s = (s << (SHIFT + 16)).to(tl.float32, bitcast=True) * lift
        else:
            first, second = tl.split(scales)
            s = tl.join(tl.join(first << 16, second << 16), tl.join(first & -65536, second & -65536)).to(tl.float32, bitcast=True)
        if not INTERPRETED:
            s = s.to(dtype)
        s = tl.reshape(s, (8, 4, WARPS, ROW_TILES, CHUNKS, 2, 2))  # g t w R C h chunk
        s = tl.permute(s, (2, 3, 5, 0, 4, 6, 1))[:, :, :, :, :, :, None, :, None, None]
        if INTERPRETED:  # it has no products of bfloat16
            found = (found.to(tl.float32) * s.to(tl.float32)).to(dtype)
        else:
            found = found * s
    return tl.reshape(found, (WARPS, 16 * ROW_TILES, 64 * CHUNKS))


@triton.jit
def inputs(x_at, rows, columns, stride, first_row, first, CHUNKS: constexpr, WARPS: constexpr, EIGHTS: constexpr, SAFE: constexpr):
    """x of 8 EIGHTS rows and the columns from ``first`` (one a warp) on, in chunks of 32: (WARPS, columns, 8 EIGHTS)."""
    row = (first_row + tl.arange(0, 8))[:, None, None, None]
    column = first[None, :, None, None] + (tl.arange(0, CHUNKS) * 32)[None, None, :, None] + tl.arange(0, 32)[None, None, None, :]
    found = eights(x_at + row * stride + column, row, rows, column, columns, stride, 0, 1, EIGHTS, SAFE)
    found = tl.reshape(found, (8, WARPS, CHUNKS, 4, 2, 2, 2, EIGHTS))  # g w chunk t s c p eight
    found = tl.permute(found, (1, 2, 4, 3, 5, 6, 7, 0))
    return tl.reshape(found, (WARPS, 32 * CHUNKS, 8 * EIGHTS))


@triton.jit
def eights(at, row, rows, column, columns, stride, FIRST: constexpr, STEP: constexpr, COUNT: constexpr, SAFE: constexpr):
    """COUNT times eight rows of x, every STEP-th eight from FIRST on, along new last axes."""
    if COUNT == 1:
        inside = row + 8 * FIRST < rows
        if not SAFE:
            inside = inside & (column < columns)
        found = tl.load(at + 8 * FIRST * stride, mask=inside, other=0.0)
    else:
        even = eights(at, row, rows, column, columns, stride, FIRST, 2 * STEP, COUNT // 2, SAFE)
        found = tl.join(even, eights(at, row, rows, column, columns, stride, FIRST + STEP, 2 * STEP, COUNT // 2, SAFE))
    return found


@triton.jit(do_not_specialize=["M"])
def few_rows(
    x_at, w_at, scale_at, offset_at, factor_at, bias_at, table, y_at, M, N, K, stride, tiles, row_tiles, groups, group_tiles, lift,
    STEPS: constexpr, BITS: constexpr, KIND: constexpr, DECODE: constexpr, NARROW: constexpr, SHIFT: constexpr, OFFSET: constexpr,
    FACTOR: constexpr, BIAS: constexpr, ROW_TILES: constexpr, TILES: constexpr, WARPS: constexpr, EIGHTS: constexpr, AHEAD: constexpr,
    SAFE: constexpr,
):  # fmt: skip
    """16 ROW_TILES rows of W a program, whose warps share the columns; sums are added up in the order of the warps."""
    dtype: constexpr = x_at.dtype.element_ty
    CHUNKS: constexpr = TILES * (2 if BITS == 4 else 1)  # of 32 columns
    row_tile = tl.program_id(0) * ROW_TILES
    first_row = tl.program_id(1) * (8 * EIGHTS)
    warp = tl.arange(0, WARPS) * TILES
    rows = row_tile * 16 + tl.arange(0, 16 * ROW_TILES)
    acc = tl.zeros((WARPS, 16 * ROW_TILES, 8 * EIGHTS), tl.float32)
    ones = tl.full((WARPS, 16 * ROW_TILES, 32 * CHUNKS), 1.0, tl.float32).to(dtype)
    chunks = K // 64
    words, scales = weights(w_at, scale_at, row_tile, warp, tiles, row_tiles, chunks, BITS, NARROW, SHIFT, ROW_TILES, TILES, SAFE)
    if AHEAD:
        b_ahead = inputs(x_at, M, K, stride, first_row, warp * (32 * CHUNKS // TILES), CHUNKS, WARPS, EIGHTS, SAFE)
    for i in range(STEPS):
        first = i * (WARPS * TILES) + warp
        then = tl.where(i + 1 < STEPS, first + WARPS * TILES, first)
        if AHEAD:
            b = b_ahead
            b_ahead = inputs(x_at, M, K, stride, first_row, then * (32 * CHUNKS // TILES), CHUNKS, WARPS, EIGHTS, SAFE)
        else:
            b = inputs(x_at, M, K, stride, first_row, first * (32 * CHUNKS // TILES), CHUNKS, WARPS, EIGHTS, SAFE)
        now, now_scales = words, scales
        words, scales = weights(w_at, scale_at, row_tile, then, tiles, row_tiles, chunks, BITS, NARROW, SHIFT, ROW_TILES, TILES, SAFE)
        a = laid_out(now, now_scales, table, lift, dtype, BITS, KIND, DECODE, NARROW, SHIFT, ROW_TILES, TILES, WARPS)
        if INTERPRETED:  # it has no products of bfloat16
            a, b = a.to(tl.float32), b.to(tl.float32)
        if NARROW:
            acc = tl.dot(a, b, acc)
        else:
            at = tl.minimum(rows, row_tiles * 16 - 1)[None, :] * groups + (tl.minimum(first, tiles - 1) // group_tiles)[:, None]
            acc += tl.dot(a, b) * number(pick(scale_at, at))[:, :, None]
            if OFFSET:
                acc += tl.dot(ones.to(b.dtype), b) * number(pick(offset_at, at))[:, :, None]
    y = tl.sum(acc, 0)
    if FACTOR:
        y = y * tl.load(factor_at + rows, mask=rows < N, other=0.0)[:, None]
    if BIAS:
        y = y + tl.load(bias_at + rows, mask=rows < N, other=0.0)[:, None]
    column = first_row + tl.arange(0, 8 * EIGHTS)
    tl.store(y_at + column[None, :] * N + rows[:, None], y.to(dtype), mask=(rows < N)[:, None] & (column < M)[None, :])


@triton.jit
def dequantized(
    w_at, scale_at, offset_at, factor_at, table, out_at, N, K, tiles, row_tiles, groups, group_tiles, lift, BITS: constexpr,
    KIND: constexpr, DECODE: constexpr, NARROW: constexpr, SHIFT: constexpr, OFFSET: constexpr, FACTOR: constexpr,
    ROW_TILES: constexpr, TILES: constexpr, WARPS: constexpr,
):  # fmt: skip
    """W as numbers, each rounded once more, for a product of another library."""
    dtype: constexpr = out_at.dtype.element_ty
    CHUNKS: constexpr = TILES * (2 if BITS == 4 else 1)
    row_tile = tl.program_id(0) * ROW_TILES
    first = tl.program_id(1) * (WARPS * TILES) + tl.arange(0, WARPS) * TILES
    rows = row_tile * 16 + tl.arange(0, 16 * ROW_TILES)
    words, scales = weights(w_at, scale_at, row_tile, first, tiles, row_tiles, K // 64, BITS, NARROW, SHIFT, ROW_TILES, TILES, False)
    a = laid_out(words, scales, table, lift, dtype, BITS, KIND, DECODE, NARROW, SHIFT, ROW_TILES, TILES, WARPS)
    v = a.to(tl.float32)
    if not NARROW:
        at = rows[None, :] * groups + (first // group_tiles)[:, None]
        inside = (rows < row_tiles * 16)[None, :] & (first < tiles)[:, None]
        v = v * number(tl.load(scale_at + at, mask=inside, other=0))[:, :, None]
        if OFFSET:
            v = v + number(tl.load(offset_at + at, mask=inside, other=0))[:, :, None]
    if FACTOR:
        v = v * tl.load(factor_at + rows, mask=rows < N, other=0.0)[None, :, None]
    # numbers lie in the order (chunk, s, t, c, p), columns are (chunk, t, s, c, p)
    v = tl.reshape(v.to(dtype), (WARPS, 16 * ROW_TILES, CHUNKS, 2, 4, 4))
    v = tl.reshape(tl.permute(v, (0, 1, 2, 4, 3, 5)), (WARPS, 16 * ROW_TILES, 32 * CHUNKS))
    column = (first * (32 * CHUNKS // TILES))[:, None] + tl.arange(0, 32 * CHUNKS)[None, :]
    to = out_at + rows.to(tl.int64)[None, :, None] * K + column[:, None, :]
    tl.store(to, v, mask=(rows < N)[None, :, None] & (column < K)[:, None, :])


@triton.jit
def rows_of(
    index_at, w_at, scale_at, factor_at, offset_at, table, out_at, N, K, tiles, groups, group, lift, BITS: constexpr, KIND: constexpr,
    NARROW: constexpr, SHIFT: constexpr, FACTOR: constexpr, OFFSET: constexpr, COLUMNS: constexpr,
):  # fmt: skip
    """COLUMNS numbers of a row, each operation rounded once."""
    item = tl.program_id(0).to(tl.int64)
    row = tl.load(index_at + item).to(tl.int64)
    known = (row >= 0) & (row < N)
    row = tl.where(known, row, 0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < K
    R, h, g = row // 16, row % 16 // 8, row % 8
    chunk, t, s, c, p = column % 64 // 32, column % 32 // 8, column % 8 // 4, column % 4 // 2, column % 2
    if BITS == 4:
        tile, word, register = column // 64, 2 * chunk + s, 2 * h + c
    else:
        tile, word, register = column // 32, 2 * s + h, c
    words = tl.load(w_at + ((R * tiles + tile) * 32 + 4 * g + t) * 4 + word, mask=inside, other=0)
    v = tl.load(table + code_in(words, register, p, BITS, KIND))
    if NARROW:
        eighth = g * NARROW + (t // 2 if NARROW == 2 else 0)
        four = tl.load(scale_at + (R * (K // 64) + column // 64) * (8 * NARROW) + eighth, mask=inside, other=0)
        byte = ((four >> (8 * (2 * h + chunk))) & 255).to(tl.int32)
        scale = (byte << (SHIFT + 16)).to(tl.float32, bitcast=True) * lift
        if FACTOR:
            scale = scale * tl.load(factor_at + row)
    else:
        scale = tl.load(scale_at + row * groups + column // group, mask=inside, other=0.0)
    v = v * scale
    if OFFSET:
        v = v + tl.load(offset_at + row * groups + column // group, mask=inside, other=0.0)
    tl.store(out_at + item * K + column, tl.where(known, v, float("nan")), mask=inside)


@triton.jit(do_not_specialize=["M"])
def many_rows(
    x_at, w_at, scale_at, offset_at, factor_at, bias_at, table, y_at, M, N, K, tiles, row_tiles, groups, group_tiles, lift,
    BITS: constexpr, KIND: constexpr, DECODE: constexpr, NARROW: constexpr, SHIFT: constexpr, OFFSET: constexpr, FACTOR: constexpr,
    BIAS: constexpr, ROW_TILES: constexpr, TILES: constexpr, WIDTH: constexpr, STEPS: constexpr, SPLIT: constexpr, STAGES: constexpr,
):  # fmt: skip
    """64 ROW_TILES rows of W, WIDTH rows of x and one of SPLIT parts of the columns a program; x in the order of ``qlinear.in_steps``."""
    dtype: constexpr = x_at.dtype.element_ty
    CHUNKS: constexpr = TILES if BITS == 4 else TILES // 2
    row_tile = tl.program_id(0) * (4 * ROW_TILES)
    rows = row_tile * 16 + tl.arange(0, 64 * ROW_TILES)
    samples = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    part = tl.program_id(2)
    acc = tl.zeros((64 * ROW_TILES, WIDTH), tl.float32)
    ones = tl.full((64 * ROW_TILES, 64 * CHUNKS), 1.0, tl.float32).to(dtype)
    lane = tl.arange(0, 32)[:, None, None, None]
    row = row_tile + tl.arange(0, 4)[None, :, None, None] + 4 * tl.arange(0, ROW_TILES)[None, None, :, None]
    known = row < row_tiles
    for step in tl.range(0, STEPS, num_stages=STAGES):
        i = part * STEPS + step
        tile = i * TILES + tl.arange(0, TILES)[None, None, None, :]
        at = ((row.to(tl.int64) * tiles + tile) * 128 + lane * 4)[:, :, :, :, None] + tl.arange(0, 4)[None, None, None, None, :]
        words = tl.load(w_at + at, mask=known[:, :, :, :, None], other=0)
        found = read(words, table, dtype, BITS, KIND, DECODE)
        if BITS == 4:
            found = tl.reshape(found, (8, 4, 4, ROW_TILES, TILES, 2, 2, 2, 2, 2))  # g t w R C chunk p s h c
            found = tl.permute(found, (3, 2, 8, 0, 4, 5, 7, 9, 1, 6))  # R w h g C chunk s c t p
        else:
            found = tl.reshape(found, (8, 4, 4, ROW_TILES, TILES // 2, 2, 2, 2, 2, 2))  # g t w R C chunk s p h c
            found = tl.permute(found, (3, 2, 8, 0, 4, 5, 6, 9, 1, 7))
        if NARROW:
            chunk = i * CHUNKS + tl.arange(0, CHUNKS)[None, None, None, :]
            eighth = lane // 4 * NARROW + (lane % 4 // 2 if NARROW == 2 else 0)
            scales = tl.load(scale_at + (row.to(tl.int64) * (K // 64) + chunk) * (8 * NARROW) + eighth, mask=known, other=0)
            s = tl.join(tl.join(scales & 255, (scales >> 16) & 255), tl.join((scales >> 8) & 255, (scales >> 24) & 255))
            s = (s << (SHIFT + 16)).to(tl.float32, bitcast=True) * lift
            if not INTERPRETED:
                s = s.to(dtype)
            s = tl.reshape(s, (8, 4, 4, ROW_TILES, CHUNKS, 2, 2))  # g t w R C h chunk
            s = tl.permute(s, (3, 2, 5, 0, 4, 6, 1))[:, :, :, :, :, :, None, None, :, None]
            if INTERPRETED:
                found = (found.to(tl.float32) * s.to(tl.float32)).to(dtype)
            else:
                found = found * s
        a = tl.reshape(found, (64 * ROW_TILES, 64 * CHUNKS))
        column = i * (64 * CHUNKS) + tl.arange(0, 64 * CHUNKS)
        b = tl.load(x_at + samples[None, :].to(tl.int64) * K + column[:, None], mask=(samples < M)[None, :], other=0.0)
        if INTERPRETED:
            a, b = a.to(tl.float32), b.to(tl.float32)
        if NARROW:
            acc = tl.dot(a, b, acc)
        else:
            at = tl.minimum(rows, row_tiles * 16 - 1) * groups + i * TILES // group_tiles
            acc += tl.dot(a, b) * number(pick(scale_at, at))[:, None]
            if OFFSET:
                acc += tl.dot(ones.to(b.dtype), b) * number(pick(offset_at, at))[:, None]
    if FACTOR:
        acc = acc * tl.load(factor_at + rows, mask=rows < N, other=0.0)[:, None]
    if BIAS:
        acc = acc + tl.load(bias_at + rows, mask=rows < N, other=0.0)[:, None]
    to = y_at + part.to(tl.int64) * M * N + samples[None, :].to(tl.int64) * N + rows[:, None]
    tl.store(to, acc.to(y_at.dtype.element_ty), mask=(rows < N)[:, None] & (samples < M)[None, :])
