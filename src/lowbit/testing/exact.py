"""The slow, exact encoder: rational numbers and a search over every number of a format; the oracle of the fast ones."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

#: the roundings that need nothing but the number
DETERMINISTIC = ("nearest_even", "nearest_away", "nearest_zero", "toward_zero", "away_from_zero", "up", "down", "to_odd")


@dataclass
class ExactFormat:
    """A format as a plain list of numbers, encoded one number at a time without any floating-point arithmetic.

    It shares no code with ``TableFormat``: neighbours are found by bisection over rational numbers and the roundings
    are written from their definitions.

    Args:
        values: ``values[code]`` is the number of a code.
        odd: the parity of each code; that of the code itself by default.
        reserved: codes that are never produced.
        middle: (low, high) -> where roundings to nearest change; halfway by default, formats that round bit strings differ.
        next: the number that would follow the largest, with the parity of the end; by default it is derived.
        never_overflows: nothing finite becomes Inf or NaN.
    """

    values: Sequence[float]
    odd: Sequence[bool] | None = None
    reserved: frozenset[int] = frozenset()
    middle: Callable[[Fraction, Fraction], Fraction] | None = None
    next: float | None = None
    never_overflows: bool = False
    numbers: list[Fraction] = field(init=False)
    codes: dict[Fraction, int] = field(init=False)

    def __post_init__(self) -> None:
        self.codes = {}
        self.nans: dict[bool, list[int]] = {False: [], True: []}
        self.infinite: dict[bool, int] = {}
        self.negative_zero: int | None = None
        for code in reversed(range(len(self.values))):
            value = self.values[code]
            negative = math.copysign(1.0, value) < 0
            if code in self.reserved:
                continue
            if math.isnan(value):
                self.nans[negative].insert(0, code)
            elif math.isinf(value):
                self.infinite[negative] = code
            elif value == 0 and negative:
                self.negative_zero = code
            else:
                self.codes[Fraction(value)] = code
        if self.negative_zero is not None:
            self.codes.setdefault(Fraction(0), self.negative_zero)
        self.numbers = sorted(self.codes)

    def nan_code(self, negative: bool) -> int:
        """The middle NaN code of that sign, else of the other sign, else the code of the number nearest to zero."""
        which = self.nans[negative] or self.nans[not negative]
        return which[len(which) // 2] if which else self.codes[min(self.numbers, key=abs)]

    def beyond(self, negative: bool, overflow: str) -> int:
        """The code of what is larger than every number."""
        if not self.overflows(negative, overflow):
            return self._code(self.numbers[0 if negative else -1], negative)
        return self.infinite[negative] if negative in self.infinite else self.nan_code(negative)

    def overflows(self, negative: bool, overflow: str) -> bool:
        """Whether what is beyond that end becomes an Inf or a NaN; it saturates where the format has neither."""
        return overflow == "special" and (negative in self.infinite or bool(self.nans[False] or self.nans[True]))

    def _code(self, number: Fraction, negative: bool) -> int:
        return self.negative_zero if number == 0 and negative and self.negative_zero is not None else self.codes[number]

    def is_odd(self, number: Fraction) -> bool:
        code = self.codes[number]
        return bool(code & 1) if self.odd is None else self.odd[code]

    def after(self, negative: bool) -> Fraction:
        """The number that would follow the end, as float64 holds it: the last gap again, or twice the last of three that double."""
        if self.next is not None:
            return Fraction(-self.next if negative else self.next)
        last, *others = self.numbers[:3] if negative else self.numbers[:-4:-1]
        doubles = len(others) == 2 and last == 2 * others[0] and others[0] == 2 * others[1]
        return Fraction(float(2 * last if doubles else 2 * last - others[0]))

    def encode(self, y: float, rounding: str = "nearest_even", overflow: str = "saturate") -> int:
        """The code of one number."""
        negative = math.copysign(1.0, y) < 0
        if math.isnan(y):
            return self.nan_code(negative)
        if math.isinf(y):
            return self.beyond(negative, overflow)
        exact, line = Fraction(y), self.numbers
        i = bisect_right(line, exact)
        if exact < line[0] or exact > line[-1]:
            return self._outside(exact, rounding, overflow)
        low = line[i - 1]
        number = low if low == exact else self._choose(exact, low, line[bisect_left(line, exact)], rounding, self.is_odd(low))
        return self._code(number, negative)

    def _outside(self, exact: Fraction, rounding: str, overflow: str) -> int:
        below = exact < self.numbers[0]
        end = self.numbers[0 if below else -1]
        kept, lost = self._code(end, exact < 0), self.beyond(below, overflow)
        if self.never_overflows or not self.overflows(below, overflow):
            return kept
        if (end > 0) if below else (end < 0):  # numbers of one sign without zero: what has that sign is kept
            return kept if exact != 0 and (exact > 0) == below else lost
        if rounding == "toward_zero" or rounding == ("up" if below else "down"):
            return kept
        if rounding in ("away_from_zero", "up", "down"):
            return lost
        if rounding == "to_odd" and (self.is_odd(end) or self.next is not None):
            return kept
        after = self.after(below)
        if (exact <= after) if below else (exact >= after):
            return lost
        low, high = (after, end) if below else (end, after)
        odd = self.is_odd(end) if not below or self.next is not None else not self.is_odd(end)
        return kept if self._choose(exact, low, high, rounding, odd) == end else lost

    def _choose(self, y: Fraction, low: Fraction, high: Fraction, rounding: str, low_is_odd: bool) -> Fraction:
        if rounding == "up":
            return high
        if rounding == "down":
            return low
        if rounding == "to_odd":
            return low if low_is_odd else high
        if rounding in ("toward_zero", "away_from_zero"):
            inner, outer = (low, high) if abs(low) < abs(high) else (high, low)
            if low < 0 < high:  # no zero between them: the sign decides
                return (high if y >= 0 else low) if rounding == "toward_zero" else (high if y > 0 else low)
            return inner if rounding == "toward_zero" else outer
        middle = (low + high) / 2 if self.middle is None else self.middle(low, high)
        if y != middle:
            return low if y < middle else high
        if rounding == "nearest_even":
            return high if low_is_odd else low
        if rounding == "nearest_away":
            return high if y >= 0 else low
        if rounding == "nearest_zero":
            return high if y <= 0 else low
        raise ValueError(f"no definition of {rounding!r} here")


def to_float32(value: Fraction) -> float:
    """The nearest float32, ties to even, subnormals and overflow included; zero comes out positive."""
    size = abs(value)
    if size == 0:
        return 0.0
    e = size.numerator.bit_length() - size.denominator.bit_length()
    e = e if Fraction(2) ** e <= size else e - 1
    step = Fraction(2) ** (max(e, -126) - 23)
    count, rest = divmod(size, step)
    count += rest > step / 2 or (rest == step / 2 and count % 2 == 1)
    found = count * step
    return math.copysign(math.inf if found >= Fraction(2) ** 128 else float(found), value)
