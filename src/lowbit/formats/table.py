"""Formats given by a table: one number a code, up to 16 bits. The table is the definition, all else is derived."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from lowbit.errors import UnsupportedError
from lowbit.formats.format import Overflow
from lowbit.rounding.ieee754 import down, nearest_even
from lowbit.rounding.rounding import Gap, Rounding

#: elements encoded at a time, so that temporary tensors stay small
CHUNK = 1 << 22


def smallest_above(points: Sequence[tuple[Fraction, bool]], dtype: torch.dtype) -> list[float]:
    """For each (point, inclusive) the smallest number of ``dtype`` that is > point, or >= point when inclusive.

    Exact: a point is rounded to float64, where it is compared with the nearest number of ``dtype``; how float64 itself
    differs from the point is looked at as a rational number.
    """
    kind = np.float32 if dtype == torch.float32 else np.float64
    rounded = [float(point) for point, _ in points]
    # whether the float64 is itself large enough, where it is a number of dtype
    enough = [
        (inclusive if f.as_integer_ratio() == point.as_integer_ratio() else Fraction(f) > point)
        for f, (point, inclusive) in zip(rounded, points, strict=True)
    ]
    with np.errstate(over="ignore"):
        exact = np.array(rounded, dtype=np.float64)
        near: np.ndarray = exact.astype(kind)
        reached = (near > exact) | ((near == exact) & np.array(enough, dtype=bool))
        found = np.where(reached, near, np.nextafter(near, kind(np.inf)))
    return [float(v) for v in found]


@dataclass(frozen=True)
class Line:
    """The numbers of one table in ascending order, with the code and parity of each.

    Of several NaN codes of a sign the middle one is produced: in the formats of IEEE 754 that is the quiet NaN.
    """

    values: tuple[float, ...]
    codes: tuple[int, ...]
    odd: tuple[bool, ...]
    zero: int
    negative_zero: int | None
    nan: int | None
    negative_nan: int | None
    positive_inf: int | None
    negative_inf: int | None

    @classmethod
    def of(cls, values: tuple[float, ...], odd: tuple[bool, ...], reserved: frozenset[int]) -> Line:
        """Sort the numbers of a table, one a code; of equal numbers the first code counts, ``reserved`` codes not at all."""
        finite: dict[float, int] = {}
        nans: dict[bool, list[int]] = {False: [], True: []}
        others: dict[str, int] = {}
        for code, value in enumerate(values):
            if code in reserved:
                continue
            if math.isnan(value):
                nans[math.copysign(1.0, value) < 0].append(code)
            elif math.isinf(value) or str(value) == "-0.0":
                others.setdefault(str(value), code)
            else:
                finite.setdefault(value, code)
        negative_zero, positive_inf, negative_inf = (others.get(key) for key in ("-0.0", "inf", "-inf"))
        if negative_zero is not None:
            finite.setdefault(0.0, negative_zero)
        ordered = sorted(finite)
        codes = tuple(finite[v] for v in ordered)
        zero = min(ordered, key=abs)
        nan, negative_nan = (which[len(which) // 2] if which else None for which in (nans[False] or nans[True], nans[True] or nans[False]))
        return cls(
            tuple(ordered), codes, tuple(odd[c] for c in codes), finite[zero], negative_zero, nan, negative_nan, positive_inf, negative_inf
        )

    def ends(self, overflow: Overflow) -> tuple[list[float], list[int], list[bool]]:
        """Values, codes and parities; when overflow is special with its codes at the ends, where the format has Inf or NaN.

        The number that would follow the end continues the spacing there, or the doubling where the last three numbers
        double (formats without mantissa), and has the opposite parity.
        """
        values, codes, odd = list(self.values), list(self.codes), list(self.odd)
        high = self.positive_inf if self.positive_inf is not None else self.nan
        low = self.negative_inf if self.negative_inf is not None else self.negative_nan
        if overflow == "special" and low is not None:
            values, codes, odd = [_next(self.values[2::-1]), *values], [low, *codes], [not odd[0], *odd]
        if overflow == "special" and high is not None:
            values, codes, odd = [*values, _next(self.values[-3:])], [*codes, high], [*odd, not odd[-1]]
        return values, codes, odd


@dataclass(frozen=True, eq=False)
class TableFormat:
    """A format of at most 16 bits: ``values[code]`` is the number that a code stands for.

    Args:
        name: how it prints.
        values: 2 to 65536 numbers, rounded to float32; NaN, Inf and -0.0 are allowed, two codes may hold the same
            number (the lower is used).
        odd: the parity of each code, for ties; by default that of the code itself.
        reserved: codes that decode but are never produced (the -8 of a narrow int4).
        top: what ``absmax`` maps a block's largest magnitude to; by default the largest magnitude.
        alternatives: further tables of the same length (BitMoD); a block says with ``table`` which one it uses,
            0 being ``values``.

    Raises:
        UnsupportedError: too few or too many codes, fewer than two finite numbers, or a number that float32 cannot hold.
    """

    name: str
    values: tuple[float, ...]
    odd: tuple[bool, ...] | None = None
    reserved: frozenset[int] = frozenset()
    absmax_to: float | None = None
    alternatives: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _float32(self.name, self.values))
        object.__setattr__(self, "alternatives", tuple(_float32(self.name, t) for t in self.alternatives))
        if not 2 <= len(self.values) <= 1 << 16:
            raise UnsupportedError(f"format {self.name!r} has {len(self.values)} codes; a table holds 2 to 65536")
        if any(len(t) != len(self.values) for t in self.alternatives):
            raise UnsupportedError(f"format {self.name!r}: every alternative table needs {len(self.values)} numbers")
        if self.odd is not None and len(self.odd) != len(self.values):
            raise UnsupportedError(f"format {self.name!r}: {len(self.odd)} parities for {len(self.values)} codes")
        if len({v for v in self.values if math.isfinite(v)}) < 2:
            raise UnsupportedError(f"format {self.name!r} needs at least two finite numbers")

    # ---- derived facts

    @cached_property
    def bits(self) -> int:
        return max(1, (len(self.values) - 1).bit_length())

    @cached_property
    def levels(self) -> int:
        return len(self.values) - len(self.reserved)

    @cached_property
    def identity(self) -> str:
        def canonical(table: tuple[float, ...]) -> bytes:
            array = np.array(table, dtype="<f8")
            signs = np.signbit(array).tobytes()
            array[np.isnan(array)] = np.nan
            return array.tobytes() + signs

        digest = hashlib.sha256(canonical(self.values))
        for table in self.alternatives:
            digest.update(canonical(table))
        digest.update(repr((self._odd, sorted(self.reserved), self.top)).encode())
        return f"{self.name}:{digest.hexdigest()[:16]}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TableFormat) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    @cached_property
    def _odd(self) -> tuple[bool, ...]:
        return self.odd if self.odd is not None else tuple(bool(code & 1) for code in range(len(self.values)))

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """The ordered numbers of ``values`` and of each alternative."""
        return tuple(Line.of(t, self._odd, self.reserved) for t in (self.values, *self.alternatives))

    @property
    def max(self) -> float:
        return max(line.values[-1] for line in self.lines)

    @property
    def min(self) -> float:
        return min(line.values[0] for line in self.lines)

    @cached_property
    def min_positive(self) -> float:
        return min((v for line in self.lines for v in line.values if v > 0), default=math.inf)

    @property
    def top(self) -> float:
        return self.absmax_to if self.absmax_to is not None else max(self.max, -self.min)

    def tops(self) -> tuple[float, ...]:
        """``top`` of each table, for formats with alternatives."""
        if not self.alternatives:
            return (self.top,)
        return tuple(max(line.values[-1], -line.values[0]) for line in self.lines)

    def alone(self, table: int) -> TableFormat:
        """The format of one table of a format with alternatives."""
        return _alone(self, table)

    @cached_property
    def step_at_top(self) -> float:
        magnitudes = sorted({abs(v) for v in self.lines[0].values})
        return magnitudes[-1] - magnitudes[-2] if len(magnitudes) > 1 else magnitudes[-1]

    @cached_property
    def has_nan(self) -> bool:
        return self.lines[0].nan is not None

    @cached_property
    def has_inf(self) -> bool:
        return self.lines[0].positive_inf is not None

    # ---- numbers to codes

    def cutpoints(
        self, rounding: Rounding = nearest_even, dtype: torch.dtype = torch.float32, overflow: Overflow = "saturate", table: int = 0
    ) -> Tensor:
        """For each pair of neighbours the smallest input that goes up, found exactly with rational numbers.

        The rank of y among the numbers of the format is the number of cut points <= y.

        Shapes:
            result  (numbers - 1,) of ``dtype``
        """
        return _cuts(self, rounding, dtype, overflow, table)[0]

    def encode(
        self,
        y: Tensor,
        rounding: Rounding = nearest_even,
        noise: Tensor | None = None,
        table: Tensor | None = None,
        overflow: Overflow = "saturate",
    ) -> Tensor:
        """The codes of y, by ``rounding``; see ``Format.encode`` for NaN, Inf and signed zeros.

        Shapes:
            y       any shape; float32 and float64 are compared as they are, other dtypes as float32
            noise   the shape of y, 32-bit words; only for roundings that need it
            table   broadcastable to y, which alternative each element uses
        """
        if self.alternatives and table is not None:
            chosen = table.expand(y.shape)
            codes = self._encode(y, rounding, noise, overflow, 0)
            for k in range(1, len(self.lines)):
                codes = torch.where(chosen == k, self._encode(y, rounding, noise, overflow, k), codes)
            return codes
        return self._encode(y, rounding, noise, overflow, 0)

    def _encode(self, y: Tensor, rounding: Rounding, noise: Tensor | None, overflow: Overflow, table: int) -> Tensor:
        if y.dtype not in (torch.float32, torch.float64):
            y = y.float()
        flat = y.reshape(-1)
        words = None if noise is None else noise.reshape(-1)
        out = torch.empty(flat.shape, dtype=torch.uint8 if self.bits <= 8 else torch.int32, device=y.device)
        for start in range(0, flat.numel(), CHUNK):
            part = slice(start, start + CHUNK)
            out[part] = self._encode_flat(flat[part], rounding, None if words is None else words[part], overflow, table)
        return out.reshape(y.shape)

    def _encode_flat(self, y: Tensor, rounding: Rounding, noise: Tensor | None, overflow: Overflow, table: int) -> Tensor:
        line = self.lines[table]
        codes_at, values, odd = _ends(self, overflow, table, y.device)
        if rounding.cut is not None:
            cuts = self.cutpoints(rounding, y.dtype, overflow, table).to(y.device)
            rank = torch.bucketize(y, cuts, right=True, out_int32=True)
        else:
            below = self.cutpoints(down, y.dtype, overflow, table).to(y.device)
            rank = torch.bucketize(y, below, right=True, out_int32=True).clamp_(max=len(values) - 2)
            # the number after the end of bfloat16 is not one of float32
            numbers = values if float(values.abs().max()) > torch.finfo(torch.float32).max else values.to(y.dtype)
            low, high = numbers[rank], numbers[rank + 1]
            gap = Gap(y.to(numbers.dtype).clamp(low, high), low, high, odd[rank])
            rises = rounding(gap, noise) & (y > low)
            rank = rank + (rises | (y >= high)).int()
        result = codes_at.index_select(0, rank)
        if line.negative_zero is not None and line.negative_zero != line.zero:
            signed = (result == line.zero) & torch.signbit(y)
            result = torch.where(signed, torch.full_like(result, line.negative_zero), result)
        missing = torch.isnan(y)
        if missing.any():
            positive, negative = (line.zero, line.zero) if line.nan is None else (line.nan, line.negative_nan)
            chosen = torch.where(torch.signbit(y), torch.full_like(result, negative or 0), torch.full_like(result, positive))
            result = torch.where(missing, chosen, result)
        return result

    def decode(self, codes: Tensor, table: Tensor | None = None) -> Tensor:
        """The float32 numbers of codes.

        Shapes:
            codes   any shape, integers below ``len(values)``
            table   broadcastable to codes
        """
        numbers = _numbers(self, codes.device)
        index = codes.reshape(-1).int()
        if self.alternatives and table is not None:
            index = index + table.expand(codes.shape).reshape(-1).int() * len(self.values)
        return numbers.index_select(0, index).reshape(codes.shape)

    def __repr__(self) -> str:
        return f"TableFormat({self.name!r}, {self.bits} bits, {self.levels} levels, {self.min:g} to {self.max:g})"

    def __str__(self) -> str:
        return self.name


def _next(end: Sequence[float]) -> float:
    doubling = len(end) == 3 and end[2] == 2 * end[1] == 4 * end[0]
    return 2 * end[-1] if doubling else 2 * end[-1] - end[-2]


def _float32(name: str, values: tuple[float, ...]) -> tuple[float, ...]:
    with np.errstate(over="ignore"):
        rounded = tuple(np.array(values, dtype=np.float64).astype(np.float32).astype(np.float64).tolist())
    for exact, value in zip(values, rounded, strict=True):
        if math.isfinite(exact) and (math.isinf(value) or (value == 0) != (exact == 0)):
            raise UnsupportedError(
                f"format {name!r} holds {exact:g}, which float32 cannot; numbers are at most 3.4e38 and not below 1.4e-45"
            )
    return rounded


@lru_cache(maxsize=256)
def _alone(fmt: TableFormat, table: int) -> TableFormat:
    return TableFormat(f"{fmt.name}, table {table}", (fmt.values, *fmt.alternatives)[table], fmt.odd, fmt.reserved)


@lru_cache(maxsize=256)
def _numbers(fmt: TableFormat, device: torch.device) -> Tensor:
    flat = [v for table in (fmt.values, *fmt.alternatives) for v in table]
    return torch.tensor(flat, dtype=torch.float64).float().to(device)


@lru_cache(maxsize=256)
def _ends(fmt: TableFormat, overflow: Overflow, table: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, values (float64) and parities in ascending order, with what lies beyond the ends when overflow is special."""
    values, codes, odd = fmt.lines[table].ends(overflow)
    kind = torch.uint8 if fmt.bits <= 8 else torch.int32
    return (
        torch.tensor(codes, dtype=kind, device=device),
        torch.tensor(values, dtype=torch.float64, device=device),
        torch.tensor(odd, device=device),
    )


@lru_cache(maxsize=512)
def _cuts(fmt: TableFormat, rounding: Rounding, dtype: torch.dtype, overflow: Overflow, table: int) -> tuple[Tensor]:
    if rounding.cut is None:
        raise UnsupportedError(f"rounding {rounding.name} depends on more than the number, so it has no cut points")
    line = fmt.lines[table]
    values, _, odd = line.ends(overflow)
    exact = [Fraction(v) for v in values]
    cuts = [rounding.cut(exact[i], exact[i + 1], parity) for i, parity in enumerate(odd[:-1])]
    points = smallest_above(cuts, dtype)
    if values[0] < line.values[0]:
        points[0] = _lower_end(points[0], cuts[0][0] == exact[0], line.values[0], dtype)
    if values[-1] > line.values[-1]:
        points[-1] = _upper_end(points[-1], cuts[-1][0] == exact[-1], line.values[-1])
    return (torch.tensor(points, dtype=dtype),)


def _upper_end(point: float, inward: bool, end: float) -> float:
    """The cut point between the largest number and what lies beyond it.

    Roundings that stay at the end never overflow (IEEE 754, 7.4), but an infinite input always does. In a format of
    numbers of one sign without zero every number of that sign is kept, the smallest ones too; zero overflows.
    """
    return 0.0 if end < 0 else math.inf if inward else point


def _lower_end(point: float, inward: bool, end: float, dtype: torch.dtype) -> float:
    """The same at the other end."""
    if end > 0:
        return smallest_above([(Fraction(0), False)], dtype)[0]
    return -float(torch.finfo(dtype).max) if inward else point
