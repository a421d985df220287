"""From the numbers of a format to the fastest exact way of reaching them. Every way is checked against the cut points."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from lowbit.kernels.grid_spec import Numbers
from lowbit.kernels.op import extension

FIXED, FLOAT, WIDE, LOOKUP, SEARCH = range(5)

#: buckets of a look-up table for each sign, at most
BUCKETS = 1 << 15


class Arithmetic(NamedTuple):
    """A way that needs no table: the fields of ``Codec`` in csrc/ops.h that it sets, and the code of each number by its formula."""

    fields: dict[str, Any]
    codes: np.ndarray[Any, Any]


def refuses(numbers: Numbers) -> str | None:
    """Why the extension cannot round to these numbers."""
    if len(numbers.line) <= 256 and numbers.bits <= 8:
        return None
    if arithmetic(numbers) is None:
        return f"a table of {len(numbers.line)} numbers that are neither a minifloat nor integers; the look-up holds 256"
    return None


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
        c.value_method = c.code_method = way.fields["value_method"]
    if len(numbers.line) <= 256 and numbers.bits <= 8:
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
    c.set_rank_value(np.ascontiguousarray(numbers.decoded.numpy()[codes]).tobytes())
    c.set_rank_number(line.astype(np.float32).tobytes())
    c.last_rank = len(line) - 1
    cuts = numbers.cuts.numpy()
    padded = np.full(256, np.nan, dtype=np.float32)
    padded[: len(cuts)] = cuts
    c.set_cuts(padded.tobytes())
    found = buckets(cuts)
    c.code_method = SEARCH if found is None else LOOKUP
    c.zero_rank = int((cuts <= 0).sum())
    if found is not None:
        entries, low, high, shift, count = found
        c.set_buckets(entries.tobytes())
        c.bucket_low, c.bucket_high, c.bucket_shift, c.bucket_count = low, high, shift, count


def buckets(cuts: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], int, int, int, int] | None:
    """Buckets of magnitudes (as bits) with at most one cut point each, first those of positive numbers, then of negative ones.

    An entry is rank below the cut | rank from it on << 8 | low bits of the cut << 16. None where no width of at most 16 bits
    and no number of buckets within ``BUCKETS`` separates the cut points.

    Returns:
        entries, the lowest and highest magnitude (others are clamped), bits of a bucket, buckets of a sign.
    """
    signs = []
    positive = np.sort(_bits(cuts[cuts > 0]).astype(np.int64))
    negative = np.sort(_bits(-cuts[cuts < 0]).astype(np.int64) + 1)  # from this magnitude on a negative number is below the cut
    always = int((positive <= 1).sum())  # every magnitude but zero, which has a rank of its own
    signs.append((positive[always:], int((cuts <= 0).sum()) + always, 1))
    signs.append((negative, int((cuts < 0).sum()), -1))
    all_thresholds = np.concatenate([t for t, _, _ in signs])
    if len(all_thresholds) == 0:
        all_thresholds = np.array([2])
    low, high = int(all_thresholds.min()) - 1, int(all_thresholds.max())
    for shift in range(16, -1, -1):
        count = ((high - low) >> shift) + 1
        if count > BUCKETS:
            return None
        if all(len(np.unique((t - low) >> shift)) == len(t) for t, _, _ in signs):
            break
    else:
        return None
    entries = []
    for thresholds, start, step in signs:
        place = (thresholds - low) >> shift
        here = np.bincount(place, minlength=count)
        below = start + step * (np.cumsum(here) - here)
        cut = np.zeros(count, dtype=np.int64)
        cut[place] = (thresholds - low) & ((1 << shift) - 1)
        entries.append(below | (below + step * here) << 8 | cut << 16)
    return np.concatenate(entries).astype(np.uint32), low, high, shift, count


# ---- arithmetic


@lru_cache(maxsize=1024)
def arithmetic(numbers: Numbers) -> Arithmetic | None:
    """Integers or a minifloat, where the numbers, the cut points and (above 8 bits) the codes are exactly those of the formula."""
    way = _integers(numbers) or _minifloat(numbers)
    if way is not None and numbers.bits > 8 and not np.array_equal(way.codes, numbers.codes.numpy()):
        return None
    return way


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
