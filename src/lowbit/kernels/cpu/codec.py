"""From the numbers of a format to the fastest exact way of reaching them. Every way is checked against the cut points."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from lowbit.kernels.grid_spec import Numbers
from lowbit.kernels.op import extension

FIXED, FLOAT, WIDE, LOOKUP, SEARCH, SHORT = range(6)

#: buckets of a sign, at most: with one cut point each, and where a search follows (these stay in the first-level cache, those of
#: formats of more than 8 bits in the second)
LOOKUP_BUCKETS, SEARCH_BUCKETS, WIDE_BUCKETS = 1 << 17, 1 << 12, 1 << 15


class Arithmetic(NamedTuple):
    """A way that needs no table: the fields of ``Codec`` in csrc/ops.h that it sets, and the code of each number by its formula."""

    fields: dict[str, Any]
    codes: np.ndarray[Any, Any]


def refuses(numbers: Numbers) -> str | None:
    """Why the extension cannot round to these numbers."""
    return None if numbers.bits <= 16 else f"numbers of {numbers.bits} bits; a table holds those of 16"


@lru_cache(maxsize=1024)
def codec(numbers: Numbers) -> Any:
    """The ``lowbit._cpu.Codec`` of these numbers."""
    module = extension("lowbit._cpu")
    assert module is not None
    c = module.Codec()
    decoded = _bits(numbers.decoded.numpy())
    nans = [numbers.zero if code is None else code for code in (numbers.nan, numbers.negative_nan)]
    c.set_nan_code(nans)
    c.set_nan_value([int(decoded[code]) for code in nans])
    c.stochastic = int(numbers.stochastic)
    c.negative_zero = int(numbers.negative_zero not in (None, numbers.zero))
    c.negative_zero_code = numbers.negative_zero or 0
    c.zero_code = numbers.zero
    c.keep_negative_zero = c.negative_zero
    way = arithmetic(numbers)
    if way is not None:
        for name, value in way.fields.items():
            if isinstance(value, list):
                getattr(c, f"set_{name}")(value)
            else:
                setattr(c, name, value)
        c.code_method = c.value_method
    if way is None or not np.array_equal(way.codes, numbers.codes.numpy()):
        _fill_tables(c, numbers)
        if way is None:
            c.value_method = c.code_method
    return c


def _bits(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)


# ---- tables


def _fill_tables(c: Any, numbers: Numbers) -> None:
    codes = numbers.codes.numpy()
    line = numbers.line.numpy()
    c.set_rank_code(codes.astype(np.uint32).tobytes())
    values = np.ascontiguousarray(numbers.decoded.numpy()[codes])
    c.set_rank_value(values.tobytes())
    if 16 < len(line) <= 256:
        c.set_rank_upper((_bits(values) >> 16).astype(np.uint16).tobytes())
        if (_bits(values) & 0xFFFF).any():
            c.set_rank_lower((_bits(values) & 0xFFFF).astype(np.uint16).tobytes())
    with np.errstate(over="ignore"):  # what follows the largest number may not be one of float32
        c.set_rank_number(line.astype(np.float32).tobytes())
    c.last_rank = len(line) - 1
    cuts = numbers.cuts.numpy()
    c.zero_rank = int((cuts <= 0).sum())
    if len(line) <= 16:
        c.code_method = SHORT
        c.set_cuts(_followed(cuts, 16))
        return
    found = buckets(cuts, ranks_fit=len(line) <= 256)
    c.set_cuts(_followed(cuts, 2 * found.search_step))
    c.code_method = SEARCH if found.search_step else LOOKUP
    c.set_buckets(found.entries.tobytes())
    c.bucket_low, c.bucket_high, c.bucket_shift, c.bucket_count = found.low, found.high, found.shift, found.number
    c.search_step = found.search_step


def _followed(cuts: np.ndarray[Any, Any], count: int) -> bytes:
    """Cut points, and NaN where a search looks beyond the last."""
    return np.append(cuts, np.full(count, np.nan, dtype=np.float32)).astype(np.float32).tobytes()


class Buckets(NamedTuple):
    """Runs of magnitudes (as bits, clamped to low..high), 2**shift each, ``number`` for positive numbers, then as many for negative ones.

    Args:
        search_step: 0 where no bucket has more than one cut point; an entry is then rank below the cut | rank from it on << 8 |
            low bits of the cut << 16. Else an entry is the lowest rank, and 2 * search_step is above the most cut points of a bucket.
    """

    entries: np.ndarray[Any, Any]
    low: int
    high: int
    shift: int
    number: int
    search_step: int


def buckets(cuts: np.ndarray[Any, Any], *, ranks_fit: bool = True) -> Buckets:
    """The widest buckets with at most one cut point each, or where those are too many the narrowest that a search needs.

    Args:
        ranks_fit: whether a rank fits 8 bits; where not, a search follows.
    """
    positive = np.sort(_bits(cuts[cuts > 0]).astype(np.int64))
    negative = np.sort(_bits(-cuts[cuts < 0]).astype(np.int64) + 1)  # from this magnitude on a negative number is below the cut
    always = int((positive <= 1).sum())  # every magnitude but zero, which has a rank of its own
    signs = ((positive[always:], int((cuts <= 0).sum()) + always, 1), (negative, int((cuts < 0).sum()), -1))
    thresholds = np.concatenate([own for own, _, _ in signs])
    low, high = (int(thresholds.min()) - 1, int(thresholds.max())) if len(thresholds) else (1, 2)
    lookups = (k for k in range(16, -1, -1) if (high - low) >> k < LOOKUP_BUCKETS and _most(signs, low, k) <= 1)
    shift = next(lookups, _narrowest(high - low, SEARCH_BUCKETS)) if ranks_fit else _narrowest(high - low, WIDE_BUCKETS)
    count, most = ((high - low) >> shift) + 1, _most(signs, low, shift)
    looked_up = most <= 1 and ranks_fit
    entries = []
    for own, start, direction in signs:
        place = (own - low) >> shift
        here = np.bincount(place, minlength=count)
        first = start + direction * (np.cumsum(here) - here)  # the rank where the bucket begins, nearest to zero
        last = first + direction * here
        cut = np.zeros(count, dtype=np.int64)
        cut[place] = (own - low) & ((1 << shift) - 1)
        entries.append(first | last << 8 | cut << 16 if looked_up else np.minimum(first, last))
    step = 0 if looked_up else 1 << (max(most, 1).bit_length() - 1)
    return Buckets(np.concatenate(entries).astype(np.uint32), low, high, shift, count, step)


def _narrowest(extent: int, number: int) -> int:
    """The shift to buckets of which fewer than ``number`` hold all magnitudes."""
    return next(k for k in range(32) if extent >> k < number)


def _most(signs: tuple[tuple[np.ndarray[Any, Any], int, int], ...], low: int, shift: int) -> int:
    """The most cut points that one bucket has."""
    return max((int(np.bincount((t - low) >> shift).max()) for t, _, _ in signs if len(t)), default=0)


# ---- arithmetic


@lru_cache(maxsize=1024)
def arithmetic(numbers: Numbers) -> Arithmetic | None:
    """Integers or a minifloat, where the numbers and cut points are exactly those of the formula."""
    return _integers(numbers) or _minifloat(numbers)


def _after(points: np.ndarray[Any, Any], inclusive: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The smallest float32 that is above each point, or at it where inclusive; the points are float32 numbers."""
    exact = points.astype(np.float32)
    return np.where(inclusive, exact, np.nextafter(exact, np.float32(np.inf)))


def _integers(numbers: Numbers) -> Arithmetic | None:
    line = numbers.line.numpy()
    unit = float(line[1] - line[0])
    if numbers.stochastic or numbers.nan is not None or numbers.negative_zero is not None or math.frexp(unit)[0] != 0.5:
        return None
    k = line / unit
    magic = 1.5 * 2.0**23 * unit
    if not np.array_equal(k, np.rint(k)) or np.abs(k).max() > 1 << 21 or not 1e-37 < unit < 1e30:
        return None
    expected = _after((k[:-1] + 0.5) * unit, k[:-1] % 2 == 1)
    if not np.array_equal(np.diff(k), np.ones(len(k) - 1)) or not np.array_equal(expected, numbers.cuts.numpy()):
        return None
    mask = (1 << numbers.bits) - 1
    fields = {"value_method": FIXED, "low": float(line[0]), "high": float(line[-1]), "magic": magic, "unit": unit, "code_sign": mask}
    return Arithmetic(fields, k.astype(np.int64) & mask)


def _minifloat(numbers: Numbers) -> Arithmetic | None:
    line, cuts, codes = numbers.line.numpy(), numbers.cuts.numpy(), numbers.codes.numpy()
    decoded = numbers.decoded.double().numpy()[codes]
    ends = int(not math.isfinite(decoded[-1]))
    if ends != int(not math.isfinite(decoded[0])) or (ends and numbers.stochastic):
        return None
    inner = line[ends : len(line) - ends]
    positive = inner[inner > 0]
    count = len(positive)
    if count < 2 or len(inner) != 2 * count + 1 or not np.array_equal(inner, np.concatenate([-positive[::-1], [0.0], positive])):
        return None
    unit = float(positive[0])
    index = np.arange(1, count + 1)
    linear = int(np.argmin(np.append(positive == index * unit, False)))
    mantissa = (linear.bit_length() - 1) - 1 if linear < count else linear.bit_length() - 1
    if mantissa < 0 or math.frexp(unit)[0] != 0.5:
        return None
    steps = 1 << mantissa
    field = np.maximum(index >> mantissa, 1)
    multiple = np.where(index >= steps, (index & (steps - 1)) + steps, index)  # of the step of its binade
    step = unit * 2.0 ** (field - 1)
    if not np.array_equal(positive, multiple * step):
        return None
    least, largest = math.frexp(unit)[1] - 1 + mantissa, math.frexp(positive[-1])[1] - 1
    wide = least == -126
    if least < -126 or (not wide and largest + 23 - mantissa > 126):
        return None
    if numbers.stochastic:
        expected = inner[1:].astype(np.float32)
    else:
        all_multiples, all_steps = np.append(0, multiple), np.append(unit, step)
        middle = (all_multiples[:-1] + 0.5) * all_steps[:-1]
        odd = all_multiples[:-1] % 2 == 1
        expected = np.concatenate([_after(-middle[::-1], ~odd[::-1]), _after(middle, odd)])
    if not np.array_equal(expected, cuts[ends : len(cuts) - ends]):
        return None
    sign = 1 << (numbers.bits - 1)
    fields: dict[str, Any] = {
        "value_method": WIDE if wide else FLOAT, "high": float(positive[-1]), "unit": unit, "least": (least + 127) << 23,
        "lift": (23 - mantissa) << 23, "drop": 23 - mantissa, "code_sign": sign, "overflows": ends,
    }  # fmt: skip
    inner_codes = np.concatenate([index[::-1] | sign, [0], index])
    if not ends:
        return Arithmetic(fields, inner_codes)
    above, below = int(_bits(cuts[-1:])[0]), int(_bits(-cuts[:1])[0]) + 1
    if above != below or cuts[-1] <= 0:
        return None
    bits = _bits(numbers.decoded.numpy()[codes])
    fields |= {
        "overflow_from": above, "overflow_value": [int(bits[-1]), int(bits[0])], "overflow_code": [int(codes[-1]), int(codes[0])]
    }  # fmt: skip
    return Arithmetic(fields, np.concatenate([codes[:1], inner_codes, codes[-1:]]))
