"""Posits: a run-length coded regime, then exponent and fraction bits; rounding acts on the bit string."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.bit_format import BitFormat
from lowbit.formats.format import Overflow
from lowbit.formats.middles import MiddleFormat, to_nearest
from lowbit.rounding.ieee754 import nearest_even
from lowbit.rounding.rounding import Gap, Rounding

GUSTAFSON = Source(
    "Standard for Posit Arithmetic (2022)",
    "Posit Working Group",
    2022,
    "posithub.org",
    parts="3 (format), 4.1 (rounding): to nearest on the bit string, never to zero or NaR",
    departs="es is free (the standard has 2). absmax maps a block's largest magnitude to 2**2**es, where fractions are longest, "
    "not to the largest posit. overflow=special: an infinite input is NaR, as the standard says; saturate: the largest posit.",
    records=("compressed-reals",),
)


def decode(code: int, bits: int, es: int) -> Fraction | None:
    """The number of a posit, exactly; None is NaR.

    With sign s, regime r (a run of k equal bits is k - 1 for ones, -k for zeros), exponent e (missing bits are 0) and
    fraction f, after the two's complement of negative words::

        value = (-1)^s * 2^(r * 2^es + e) * (1 + f)
    """
    if code == 0:
        return Fraction(0)
    if code == 1 << bits - 1:
        return None
    sign = code >> bits - 1
    word = (-code if sign else code) & (1 << bits - 1) - 1
    first = word >> bits - 2
    run = bits - 1 - (word ^ (1 << bits - 1) - 1 if first else word).bit_length()
    regime = run - 1 if first else -run
    width = max(0, bits - 2 - run)  # of what follows the bit that ends the run
    rest = word & (1 << width) - 1
    tail = max(0, width - es)
    exponent = rest >> tail << max(0, es - width)
    mantissa = (1 << tail) + (rest & (1 << tail) - 1)
    power = regime * 2**es + exponent - tail
    size = Fraction(mantissa << power) if power >= 0 else Fraction(mantissa, 1 << -power)
    return -size if sign else size


@dataclass(frozen=True, eq=False)
class Posit(MiddleFormat):
    """A posit of at most 16 bits as a table, with the cut points of the standard.

    The cut between two neighbours is the posit of one bit more that lies between them. Between zero and the smallest
    posit it is zero itself, and nothing finite becomes NaR. Roundings that are not to nearest act on the numbers.
    """

    es: int = field(default=2, kw_only=True)

    def middle(self, low: Fraction, high: Fraction) -> Fraction:
        """Where roundings to nearest change from one neighbour to the other."""
        return _middles(self)[low, high]

    #: no finite number overflows
    never_overflows = True

    def cutpoints(
        self, rounding: Rounding = nearest_even, dtype: torch.dtype = torch.float32, overflow: Overflow = "saturate", table: int = 0
    ) -> Tensor:
        """For each pair of neighbours the smallest input that goes up; with overflow=special also from and to NaR."""
        points = super().cutpoints(rounding, dtype, "saturate", table)
        if overflow == "saturate":
            return points
        return torch.cat((points.new_tensor([-torch.finfo(dtype).max]), points, points.new_tensor([torch.inf])))

    def _encode_flat(self, y: Tensor, rounding: Rounding, noise: Tensor | None, overflow: Overflow, table: int) -> Tensor:
        if overflow == "special":
            y = torch.where(torch.isfinite(y), y.clamp(self.min, self.max), y)
        return super()._encode_flat(y, rounding, noise, overflow, table)


@lru_cache(maxsize=64)
def _middles(fmt: Posit) -> dict[tuple[Fraction, Fraction], Fraction]:
    found = {}
    half = 1 << fmt.bits - 1
    for signed in range(-half + 1, half - 1):
        pair = [decode(c & 2 * half - 1, fmt.bits, fmt.es) for c in (signed, signed + 1)]
        between = Fraction(0) if 0 in pair else decode(2 * signed + 1 & 4 * half - 1, fmt.bits + 1, fmt.es)
        assert pair[0] is not None and pair[1] is not None and between is not None
        found[pair[0], pair[1]] = between
    return found


@dataclass(frozen=True)
class WidePosit(BitFormat):
    """A posit of up to 32 bits by arithmetic on the bits of float64; codes are the words as they are packed, in int32.

    Args:
        bits: 3 to 32.
        es: exponent bits; (bits - 2) * 2**es is at most 1000, so that float64 holds every posit.
    """

    bits: int
    es: int = 2

    def __post_init__(self) -> None:
        if not 3 <= self.bits <= 32 or self.es < 0 or (self.bits - 2) << self.es > 1000:
            raise UnsupportedError(f"posit{self.bits}_{self.es}: 3 to 32 bits, and (bits - 2) * 2**es at most 1000")

    @property
    def name(self) -> str:
        return f"posit{self.bits}_{self.es}"

    @property
    def levels(self) -> int:
        return 1 << self.bits

    @property
    def max(self) -> float:
        return 2.0 ** ((self.bits - 2) << self.es)

    @property
    def top(self) -> float:
        return 2.0 ** (1 << self.es)

    @property
    def min_positive(self) -> float:
        return 1 / self.max

    @property
    def step_at_top(self) -> float:
        return self.max - self.max / 2.0 ** (1 << self.es)

    def encode(
        self,
        y: Tensor,
        rounding: Rounding = nearest_even,
        noise: Tensor | None = None,
        table: Tensor | None = None,
        overflow: Overflow = "saturate",
    ) -> Tensor:
        """Words of numbers; float64 is taken exactly. The fields are cut off, then the rest decides whether one is added."""
        x = y.double()
        size = x.abs().nan_to_num(1.0).clamp(self.min_positive, self.max)
        word, side = self._truncated(size)
        low, high = self._magnitude(word), self._magnitude((word + 1).clamp(max=(1 << self.bits - 1) - 1))
        small = (x.abs() < self.min_positive) & (x != 0)
        if not to_nearest(rounding):  # below the smallest posit directed and stochastic roundings may go to zero
            word, low = torch.where(small, 0, word), torch.where(small, 0.0, low)
            high, side = torch.where(small, self.min_positive, high), torch.where(small, 0.25, side)
        share = side if rounding.cut is not None else ((x.abs() - low) / (high - low)).nan_to_num(0.0)
        share = torch.where((size >= self.max) | (x == 0), 0.0, share)
        negative = torch.signbit(x)
        down, above = torch.where(negative, -high, low), torch.where(negative, -low, high)
        at = low + share * (high - low)
        gap = Gap(torch.where(negative, -at, at), down, above, (word + negative) % 2 == 1)
        rises = rounding(gap, noise) ^ negative
        word = torch.where(share > 0, word + rises, word)
        word = torch.where(x == 0, 0, torch.where(negative, -word, word))
        lost = torch.isnan(x) | (torch.isinf(x) if overflow == "special" else False)
        word = torch.where(lost, -(1 << self.bits - 1), word)
        return (word & (1 << self.bits) - 1).int()  # of 32 bits, the upper half is negative

    def _truncated(self, size: Tensor) -> tuple[Tensor, Tensor]:
        """The word cut off after ``bits``, and 0, 0.25, 0.5 or 0.75 as the rest is nothing, below half, half or above."""
        pattern = size.view(torch.int64)
        e = (pattern >> 52) - 1023
        regime = e >> self.es
        run = torch.where(regime >= 0, regime + 2, 1 - regime)
        head = torch.where(regime >= 0, (1 << (regime + 2).clamp(min=1, max=40)) - 2, 1)
        body = (e - (regime << self.es)) << 52 | pattern & (1 << 52) - 1
        available = (self.bits - 1 - run).clamp(min=0)
        cut = self.es + 52 - available
        rest, half = body & (1 << cut) - 1, 1 << cut - 1
        side = torch.where(rest == 0, 0.0, torch.where(rest == half, 0.5, torch.where(rest < half, 0.25, 0.75)))
        word = (head << available | body >> cut).clamp(max=(1 << self.bits - 1) - 1)
        return torch.where(run > self.bits - 1, (1 << self.bits - 1) - 1, word), side.double()

    def _magnitude(self, word: Tensor) -> Tensor:
        """float64 numbers of positive words, exact; 0 for 0."""
        body = word << (64 - self.bits)  # the sign bit is now bit 63 and zero
        ones = (body >> 62) == 1
        run = torch.zeros_like(word)
        going = torch.ones_like(ones)
        for i in range(self.bits - 1):
            going = going & ((body >> 62 - i & 1) == ones.long())
            run = run + going
        regime = torch.where(ones, run - 1, -run)
        tail = (body << (run + 1).clamp(max=62)) & (1 << 63) - 1
        exponent = tail >> 63 - self.es if self.es else torch.zeros_like(tail)
        fraction = (tail << self.es) & (1 << 63) - 1
        number = (1023 + (regime << self.es) + exponent << 52 | fraction >> 11).view(torch.float64)
        return torch.where(word == 0, 0.0, number)

    def decode64(self, codes: Tensor) -> Tensor:
        """The exact float64 numbers of words; NaR is NaN."""
        words = codes.long()
        words = torch.where(words >> self.bits - 1 & 1 == 1, words | -(1 << self.bits - 1), words)
        size = self._magnitude(words.abs())
        number = torch.where(words < 0, -size, size)
        return torch.where(words == -(1 << self.bits - 1), torch.nan, number)


def posit(bits: int, es: int = 2) -> Posit | WidePosit:
    """The posit of ``bits`` bits with ``es`` exponent bits: a table up to 16 bits where float32 holds it, else by arithmetic.

    Raises:
        UnsupportedError: fewer than 3 or more than 32 bits, or numbers that float64 cannot hold.
    """
    wide = WidePosit(bits, es)
    if bits > 16 or (bits - 2) << es > 126:
        return wide
    numbers = [decode(code, bits, es) for code in range(1 << bits)]
    values = tuple(float("nan") if v is None else float(v) for v in numbers)
    return Posit(wide.name, values, absmax_to=min(wide.top, wide.max), es=es)


posit8_0, posit8_1, posit8_2 = (
    register("format", f"posit{n}_{es}", GUSTAFSON, aliases=(f"posit{n}",) if es == 2 else ())(posit(n, es))
    for n, es in ((8, 0), (8, 1), (8, 2))
)

NAME = re.compile(r"posit(?P<bits>\d+)(?:_(?P<es>\d+))?")


@register("format family", "posit<n>_<es>", GUSTAFSON)
def from_name(name: str) -> Posit | WidePosit | None:
    """Any posit by its name: posit<bits>_<exponent bits>, 3 to 32 bits; posit<bits> has the standard's 2 exponent bits."""
    match = NAME.fullmatch(name)
    return None if match is None else posit(int(match["bits"]), int(match["es"] or 2))
