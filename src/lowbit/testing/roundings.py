"""Checks that every rounding must pass, a user's own included: ``check_rounding(rounding)``."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from lowbit import catalog
from lowbit.formats.format import Format
from lowbit.formats.table import TableFormat, smallest_above
from lowbit.philox import Key, noise
from lowbit.rounding.rounding import Gap, Rounding
from lowbit.threads import one_thread

#: even and uneven gaps, a gap around zero without a zero, one-sided numbers
TABLES = (
    TableFormat("even gaps", tuple(range(-4, 5))),
    TableFormat("no zero", (-3.0, -1.0, 1.0, 3.0)),
    TableFormat("uneven", (-1.0, -0.3, -0.05, 0.0, 0.01, 0.7, 0.8, 5.0)),
    TableFormat("positive", (1.0, 1.5, 4.0, 100.0)),
)


def formats() -> list[Format]:
    """The registered formats of up to 8 bits, and a few odd tables."""
    return [*TABLES, *(entry.thing for entry in catalog.entries("format") if entry.thing.bits <= 8)]


def neighbours(fmt: Format, y: Tensor) -> tuple[Tensor, Tensor]:
    """The largest number <= y and the smallest >= y, by comparing with every number; the end where there is none.

    Shapes:
        y       (n,)
        result  (n,), (n,)
    """
    numbers = fmt.decode(torch.arange(len(fmt.values) if hasattr(fmt, "values") else 1 << fmt.bits)).double()
    reserved = torch.tensor(sorted(getattr(fmt, "reserved", ())), dtype=torch.int64)
    numbers[reserved] = math.nan
    numbers = numbers[torch.isfinite(numbers)]
    exact = y.double().unsqueeze(-1)
    low = torch.where(numbers <= exact, numbers, -math.inf).amax(-1)
    high = torch.where(numbers >= exact, numbers, math.inf).amin(-1)
    return torch.where(low.isinf(), numbers.min(), low).float(), torch.where(high.isinf(), numbers.max(), high).float()


def spread(fmt: Format, count: int = 600) -> Tensor:
    """Sorted float32 numbers a little beyond both ends of the format, more of them near zero."""
    share = noise(Key(3, fmt.name), (count,)).double() / 2.0**32
    linear = fmt.min + (fmt.max - fmt.min) * (1.2 * share[: count // 2] - 0.1)
    small = linear[: count // 4] * torch.exp2(-20 * share[count // 2 : count // 2 + count // 4])
    return torch.cat((linear, small)).clamp(-3e38, 3e38).float().sort().values


def check_rounding(rounding: Rounding, draws: int = 20_000) -> None:
    """Everything that a rounding owes its users; raises AssertionError with the first thing that is wrong.

    Args:
        draws: how often a noisy rounding is asked about one number.
    """
    with one_thread():
        for fmt in formats():
            check_neighbours(rounding, fmt)
            if not rounding.noisy:
                check_monotone(rounding, fmt)
        if rounding.cut is not None:
            check_cut(rounding)
        if rounding.noisy:
            check_unbiased(rounding, draws)


def check_neighbours(rounding: Rounding, fmt: Format) -> None:
    """A number of the format stays, any other goes to one of its two neighbours, one beyond the ends to the end."""
    y = torch.cat((spread(fmt), fmt.decode(fmt.encode(spread(fmt)))))
    words = noise(Key(4, fmt.name), tuple(y.shape)) if rounding.noisy else None
    z = fmt.decode(fmt.encode(y, rounding, words))
    low, high = neighbours(fmt, y)
    wrong = (z != low) & (z != high)
    if wrong.any():
        i = int(wrong.nonzero()[0])
        raise AssertionError(f"{rounding} takes {y[i]:.9g} to {z[i]:.9g} in {fmt.name}; its neighbours are {low[i]:.9g} and {high[i]:.9g}")


def check_monotone(rounding: Rounding, fmt: Format) -> None:
    """A larger number is never rounded to a smaller one."""
    y = spread(fmt)
    z = fmt.decode(fmt.encode(y, rounding))
    falls = (z[1:] < z[:-1]).nonzero()
    if len(falls):
        i = int(falls[0])
        raise AssertionError(f"{rounding} in {fmt.name}: {y[i]:.9g} goes to {z[i]:.9g}, but {y[i + 1]:.9g} to {z[i + 1]:.9g}")


def check_cut(rounding: Rounding) -> None:
    """The cut point of each gap says the same as the rule itself, at the point, just below and just above it."""
    assert rounding.cut is not None
    gaps = [(-3.0, -1.0), (-1.0, 0.0), (-0.0, 0.5), (-1.0, 1.0), (0.25, 0.3125), (2.0, 3.0), (1e-40, 3e-40), (64.0, 128.0)]
    for low, high in gaps:
        for odd in (False, True):
            a, b = (torch.tensor(v).item() for v in (low, high))
            (cut,) = smallest_above([rounding.cut(Fraction(a), Fraction(b), odd)], torch.float32)
            middle = torch.tensor([(a + b) / 2, cut])
            y = torch.cat((middle, torch.nextafter(middle, torch.tensor(math.inf)), torch.nextafter(middle, torch.tensor(-math.inf))))
            y = y[(y > a) & (y < b)]
            said = rounding(Gap(y, torch.full_like(y, a), torch.full_like(y, b), torch.full_like(y, odd, dtype=torch.bool)))
            wrong = said != (y >= cut)
            if wrong.any():
                raise AssertionError(
                    f"{rounding}: the rule takes {y[wrong][0]:.9g} {'up' if said[wrong][0] else 'down'} between {a:.9g} and {b:.9g} "
                    f"({'odd' if odd else 'even'}), its cut point {cut:.9g} says the opposite"
                )


def check_unbiased(rounding: Rounding, draws: int = 20_000) -> None:
    """Only the two neighbours occur, and the mean is within the stated bias and 4 standard errors of the number."""
    fmt = TABLES[2]
    for target in (-0.31, -0.2, -0.02, 0.003, 0.1, 0.5, 0.75, 0.8001, 2.9, 4.999):
        y = torch.full((draws,), target)
        z = fmt.decode(fmt.encode(y, rounding, noise(Key(5, f"{target}"), (draws,)))).double()
        low, high = (float(v[0]) for v in neighbours(fmt, y[:1]))
        if not bool(((z == low) | (z == high)).all()):
            raise AssertionError(f"{rounding} takes {target} to {set(z.tolist())}; its neighbours are {low:g} and {high:g}")
        share = (float(y[0]) - low) / (high - low)
        error = abs(float(z.mean()) - float(y[0]))
        spread_of_one = 0.25 if rounding.bias else share * (1 - share)
        bound = (high - low) * (rounding.bias + 4 * math.sqrt(spread_of_one / draws))
        if error > bound:
            allowed = f"its bias and 4 standard errors are {bound:.3g}"
            raise AssertionError(f"{rounding} is biased: the mean of {draws} roundings of {target} is off by {error:.3g}, {allowed}")
