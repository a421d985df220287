"""The numbers of a format as a kernel reads them: one run of 32-bit words on the device, parameters first, tables after them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowbit.kernels.cpu import codec as formulas
from lowbit.kernels.cpu.codec import FIXED, LOOKUP, SEARCH, WIDE
from lowbit.kernels.grid_spec import Numbers

#: words before the tables; ``rounding.py`` reads them by these places
PARAMETERS = (
    "high", "low", "magic", "inverse_unit", "least", "lift", "drop", "overflow_from", "overflow_value", "overflow_value_1",
    "overflow_code", "overflow_code_1", "code_sign", "nan_value", "nan_value_1", "nan_code", "nan_code_1", "bucket_low", "bucket_high",
    "bucket_shift", "bucket_count", "zero_rank", "last_rank", "zero_code", "negative_zero_code", "buckets", "cuts", "rank_value",
    "rank_number", "rank_code", "of_zero", "uniform_low", "uniform_high", "uniform_inverse", "uniform",
)  # fmt: skip

#: a look-up in buckets of equal width, at most one cut point each, so few of them that they share two or three lines of the cache
UNIFORM = 6
UNIFORM_BUCKETS = 128

#: what is added to a number to have its nearest integer in the low bits
INTEGERS = 12582912.0

#: words of a line of the cache, where tables begin
LINE = 32

#: buckets of a sign: with one cut point each they should stay in the first-level cache
LOOKUP_BUCKETS = 1 << 10

#: steps of subnormals from here on have a float32 inverse
TINY = 2.0**-126

#: NaN after the last cut point, at least: a search may take more steps than its own buckets need
FOLLOWED = 512


class Way(NamedTuple):
    """What is compiled into a kernel: how values and codes are found, and what else has to be looked at.

    Args:
        steps: of the search in the cut points after the buckets.
        nan_signs: NaN of both signs become different things.
    """

    value: int
    code: int
    stochastic: bool = False
    overflows: bool = False
    signed_zero: bool = False
    steps: int = 0
    nan_signs: bool = False


class Codec(NamedTuple):
    """The words on a device, and how they are read."""

    words: Tensor
    way: Way


@lru_cache(maxsize=4096)
def codec(numbers: Numbers, device: torch.device) -> Codec:
    """The numbers of a format on a device."""
    words, way = host_codec(numbers)
    return Codec(words.to(device), way)


@lru_cache(maxsize=4096)
def codecs(ways: tuple[Numbers, ...], device: torch.device) -> tuple[Tensor, Tensor, Way] | str:
    """The codecs of several ways one after another, where that of each begins, and how all of them are read; or why they cannot be."""
    several = tuple(dict.fromkeys(ways))
    found = [host_codec(n) for n in several]
    if len({way._replace(steps=0) for _, way in found}) > 1:
        found = [host_codec(n, tables=True) for n in several]
    kinds = {way._replace(steps=0) for _, way in found}
    if len(kinds) > 1:
        return "its tables are of several kinds"
    starts = np.cumsum([0, *(len(words) for words, _ in found[:-1])])[[several.index(n) for n in ways]]
    way = kinds.pop()._replace(steps=max(way.steps for _, way in found))
    return torch.cat([words for words, _ in found]).to(device), torch.from_numpy(starts).to(device), way


@lru_cache(maxsize=4096)
def host_codec(numbers: Numbers, tables: bool = False) -> Codec:
    """The same in memory of the CPU; ``tables``: by its tables even where a formula is known."""
    fields: dict[str, int] = {}
    decoded = _bits(numbers.decoded.numpy())
    nans = [numbers.zero if code is None else code for code in (numbers.nan, numbers.negative_nan)]
    _pair(fields, "nan_code", nans)
    _pair(fields, "nan_value", [int(decoded[code]) for code in nans])
    signed_zero = numbers.negative_zero not in (None, numbers.zero)
    apart = nans[0] != nans[1]
    at_zero = int(numbers.codes[int((numbers.cuts <= 0).sum())])
    fields |= {"zero_code": numbers.zero, "negative_zero_code": numbers.negative_zero or 0, "of_zero": int(decoded[at_zero])}
    way = None if tables else formulas.arithmetic(numbers) or _stochastic_integers(numbers)
    if way is not None and way.fields.get("unit", 1.0) < TINY and way.fields["value_method"] != WIDE:
        way = None
    method, overflows = LOOKUP, False
    if way is not None:
        method, overflows = way.fields["value_method"], bool(way.fields.get("overflows", 0))
        for name, value in way.fields.items():
            if isinstance(value, list):
                _pair(fields, name, value)
            elif name == "unit":
                fields["inverse_unit"] = _word(1.0 / value)
            elif name in PARAMETERS:
                fields[name] = _word(value) if isinstance(value, float) else value
    if way is not None and np.array_equal(way.codes, numbers.codes.numpy()):
        return Codec(_joined(fields, {}), Way(method, method, numbers.stochastic, overflows, signed_zero, 0, apart))
    kind, steps, more = _tables(fields, numbers)
    method = kind if way is None else method
    return Codec(_joined(fields, more), Way(method, kind, numbers.stochastic, overflows, signed_zero, steps, apart))


def _tables(fields: dict[str, int], numbers: Numbers) -> tuple[int, int, dict[str, np.ndarray]]:
    """The way of a look-up, the steps of its search, and its tables."""
    codes, cuts = numbers.codes.numpy(), numbers.cuts.numpy()
    found = formulas.buckets(cuts, ranks_fit=len(numbers.line) <= 256)
    if not found.search_step and found.number > LOOKUP_BUCKETS:
        found = formulas.buckets(cuts, ranks_fit=False)
    fields |= {
        "bucket_low": found.low, "bucket_high": found.high, "bucket_shift": found.shift, "bucket_count": found.number,
        "zero_rank": int((cuts <= 0).sum()), "last_rank": len(numbers.line) - 1,
    }  # fmt: skip
    with np.errstate(over="ignore"):  # what follows the largest number may not be one of float32
        line = numbers.line.numpy().astype(np.float32)
    tables = {
        "buckets": found.entries.view(np.int32),
        "cuts": np.append(cuts, np.full(max(2 * found.search_step, FOLLOWED), np.nan)).astype(np.float32).view(np.int32),
        "rank_value": _bits(numbers.decoded.numpy()[codes]).view(np.int32),
        "rank_number": _bits(line).view(np.int32),
        "rank_code": codes.astype(np.int32),
    }
    uniform = _uniform(fields, cuts)
    if uniform is not None:
        return UNIFORM, 0, tables | {"uniform": uniform}
    return (SEARCH, found.search_step.bit_length(), tables) if found.search_step else (LOOKUP, 0, tables)


def _uniform(fields: dict[str, int], cuts: np.ndarray) -> np.ndarray | None:
    """Pairs (cut point as bits, rank below it) of buckets of equal width; None where more than UNIFORM_BUCKETS are needed.

    The bucket of y is the integer nearest to y * inverse, held to the ends. That never falls where y grows, so y lies on the same side
    of every cut point in another bucket as that bucket.
    """
    finite = cuts[np.isfinite(cuts)]
    if len(finite) != len(cuts) or not 2 <= len(cuts) <= 64:
        return None
    for power in range(40):
        inverse = np.float32(2.0 ** (power - 10) / np.abs(cuts).max())
        with np.errstate(over="ignore"):
            place = np.rint(cuts * inverse).astype(np.int64)
        low, high = int(place.min()) - 1, int(place.max()) + 1
        if high - low + 1 > UNIFORM_BUCKETS or high > 1 << 20 or not np.isfinite(inverse):
            return None
        if len(np.unique(place)) == len(place):
            break
    else:
        return None
    ranks = np.searchsorted(place, np.arange(low, high + 1), side="left")
    points = np.full(high - low + 1, np.nan, dtype=np.float32)
    points[place - low] = cuts
    fields |= {"uniform_low": _word(low), "uniform_high": _word(high), "uniform_inverse": _word(float(inverse))}
    return np.stack([points.view(np.int32), ranks.astype(np.int32)], 1).reshape(-1)


def _stochastic_integers(numbers: Numbers) -> formulas.Arithmetic | None:
    """A run of integers times a power of two that is rounded by noise."""
    line = numbers.line.numpy()
    unit = float(line[1] - line[0])
    steps = line / unit
    plain = numbers.stochastic and numbers.nan is None and numbers.negative_zero in (None, numbers.zero)
    if not plain or np.frexp(unit)[0] != 0.5 or not 1e-30 < unit < 1e30 or np.abs(steps).max() > 1 << 21:
        return None
    whole = np.array_equal(steps, np.rint(steps)) and np.array_equal(np.diff(steps), np.ones(len(steps) - 1))
    if not whole or not np.array_equal(numbers.cuts.numpy(), line[1:].astype(np.float32)):
        return None
    mask = (1 << numbers.bits) - 1
    magic = INTEGERS * unit
    fields = {"value_method": FIXED, "low": float(line[0]), "high": float(line[-1]), "magic": magic, "unit": unit, "code_sign": mask}
    return formulas.Arithmetic(fields, steps.astype(np.int64) & mask)


def _joined(fields: dict[str, int], tables: dict[str, np.ndarray]) -> Tensor:
    start = -(-len(PARAMETERS) // LINE) * LINE
    parts = []
    for name, table in tables.items():
        fields[name] = start
        parts.append(np.append(table, np.zeros(-len(table) % LINE, dtype=np.int32)))
        start += len(parts[-1])
    head = [fields.get(name, 0) & 0xFFFFFFFF for name in PARAMETERS]
    words = np.array(head + [0] * (-len(head) % LINE), dtype=np.uint32).view(np.int32)
    return torch.from_numpy(np.concatenate([words, *parts]))


def _pair(fields: dict[str, int], name: str, values: list[int]) -> None:
    """Of positive and of negative numbers."""
    fields[name], fields[f"{name}_1"] = values


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)


def _word(value: float) -> int:
    with np.errstate(over="ignore"):
        return int(np.float32(value).view(np.uint32))
