"""Lowering: from a scheme to the flat record that kernels take, or to the sentence that says why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lowbit.formats.format import Format, Overflow
from lowbit.formats.table import TableFormat
from lowbit.kernels.grid_spec import Candidate, GridSpec, Numbers, ScaleRule
from lowbit.rounding.ieee754 import down, nearest_even
from lowbit.rounding.rounding import Rounding
from lowbit.rounding.stochastic import stochastic
from lowbit.scaling.absmax import Absmax
from lowbit.scaling.absmean import Absmean
from lowbit.scaling.four_over_six import FourOverSix
from lowbit.scaling.minmax import MinMax
from lowbit.scaling.mse import MSE
from lowbit.scaling.power_of_two import PowerOfTwo
from lowbit.scaling.sign_split import SignSplit

if TYPE_CHECKING:
    from lowbit.quantizers.scheme import Scheme

#: a mantissa that no float32 number reaches: the exponent is never raised
NEVER = 1 << 24


def lowered(scheme: Scheme) -> GridSpec | str:
    """What kernels are told about a scheme, or why they cannot be told."""
    if scheme.center is not None:
        return f"the mean of {scheme.center} is subtracted first"
    candidates = candidates_of(scheme)
    if isinstance(candidates, str):
        return candidates
    numbers = candidates[0].numbers if candidates else numbers_of(scheme.format, scheme.rounding, scheme.overflow)
    if isinstance(numbers, str):
        return numbers
    if scheme.scaling is None:
        return GridSpec(numbers, scheme.blocks, ScaleRule())
    rule = ScaleRule("absmax") if candidates else rule_of(scheme.scaling, scheme.format)
    if isinstance(rule, str):
        if getattr(scheme.scaling, "extremes", False):
            return GridSpec(numbers, scheme.blocks, ScaleRule("extremes"), units=scheme.units)
        return rule
    stored = scheme.scale_quantizer
    if stored is None:
        return GridSpec(numbers, scheme.blocks, rule, None, candidates)
    scale = getattr(stored, "lowered", "")
    if isinstance(scale, GridSpec) and scale.numbers.stochastic:
        return "scales: stochastic rounding needs noise of their own"
    if isinstance(scale, GridSpec) and scale.rule.kind == "none":
        return GridSpec(numbers, scheme.blocks, rule, scale.numbers, candidates)
    if rule.kind == "sign_split":
        return "the scales of both signs share what they are multiples of"
    if isinstance(scale, GridSpec):
        return GridSpec(numbers, scheme.blocks, rule, scale, candidates)
    return GridSpec(numbers, scheme.blocks, rule, _storing(stored), candidates)


def _storing(quantizer: Any) -> Callable[[Tensor], Tensor]:
    """Scales as a quantizer stores them that kernels cannot be told."""

    def stored(scale: Tensor) -> Tensor:
        found = quantizer.grid(scale).choose(scale, getattr(quantizer, "rounding", nearest_even)).dequantize()
        return found.float()  # type: ignore[no-any-return]

    return stored


def candidates_of(scheme: Scheme) -> tuple[Candidate, ...] | str:
    """The ways among which each block of a scheme chooses; none where its rule gives one scale."""
    rule, fmt = scheme.scaling, scheme.format
    tables = len(getattr(fmt, "alternatives", ())) + 1
    if type(rule) not in (MSE, FourOverSix) and (tables == 1 or type(rule) is not Absmax):
        return ()
    if not isinstance(fmt, TableFormat) or (tables > 1 and type(fmt) is not TableFormat):
        return f"{fmt.name} is not given by tables alone"
    if scheme.rounding is not nearest_even:
        return f"candidates are compared after rounding to nearest even, {scheme.rounding.name} is used later"
    ways = []
    for k in range(tables):
        way = numbers_of(fmt.alone(k) if tables > 1 else fmt, nearest_even, scheme.overflow)
        if isinstance(way, str):
            return way
        ways.append(way)
    shares = rule.shares if isinstance(rule, MSE) else [1.0]
    if isinstance(rule, FourOverSix):
        if tables > 1 or rule.high > fmt.max:
            return f"{rule} does not fit {fmt.name}"
        tops = [(0, rule.high), (0, rule.low)]
    else:
        given = rule.top if isinstance(rule, Absmax) else None
        if given is not None and tables > 1:
            return f"{rule} leaves the tables of {fmt.name} but the first unused"
        tops = list(enumerate(fmt.tops() if given is None else (given,)))
    found = [Candidate(ways[k], float(np.float32(top)), float(np.float32(share))) for share in shares for k, top in tops]
    return tuple(found) if len(found) <= 256 else f"{len(found)} candidates; kernels compare 256"


def numbers_of(fmt: Format, rounding: Rounding, overflow: Overflow) -> Numbers | str:
    """The numbers of a format under a rounding, or why a kernel cannot be told them."""
    return _numbers(fmt, rounding, overflow) if isinstance(fmt, TableFormat) else f"{fmt.name} is not given by a table"


@lru_cache(maxsize=1024)
def _numbers(fmt: TableFormat, rounding: Rounding, overflow: Overflow) -> Numbers | str:
    decoded = _decoded(fmt)
    if isinstance(decoded, str):
        return decoded
    if rounding.cut is None and rounding is not stochastic:
        return f"rounding {rounding.name} is not known to kernels"
    line = fmt.lines[0]
    values, codes, _ = line.ends(overflow)
    if rounding is stochastic and max(map(abs, values)) > torch.finfo(torch.float32).max:
        return f"what follows the end of {fmt.name} is not a float32 number"
    own = type(fmt)._encode_flat is not TableFormat._encode_flat
    if own and rounding is stochastic and overflow == "special":
        return f"{fmt.name} has a rule of its own for what overflows"
    cuts = fmt.cutpoints(down if rounding is stochastic else rounding, torch.float32, overflow)
    if own and rounding is not stochastic and not _goes_by_cuts(fmt, rounding, overflow, cuts, codes):
        return f"{fmt.name} has an encoder of its own that does not go by its cut points"
    return Numbers(
        fmt.bits, decoded, torch.tensor(values, dtype=torch.float64), torch.tensor(codes), cuts, rounding is stochastic,
        line.zero, line.negative_zero, line.nan, line.negative_nan,
    )  # fmt: skip


def _goes_by_cuts(fmt: TableFormat, rounding: Rounding, overflow: Overflow, cuts: Tensor, codes: list[int]) -> bool:
    """Whether an encoder changes its code exactly at the cut points."""
    below = torch.nextafter(cuts, torch.full_like(cuts, -torch.inf))
    told = torch.tensor(codes)
    same = [fmt.encode(y, rounding, overflow=overflow).long() == part for y, part in ((cuts, told[1:]), (below, told[:-1]))]
    return bool(torch.where(cuts == 0, True, same[0] & same[1]).all())  # zeros have signs


def decoded_of(fmt: Format) -> Tensor | str:
    """The float32 number of every code, or why there is no such table."""
    return _decoded(fmt) if isinstance(fmt, TableFormat) else f"{fmt.name} is not given by a table"


@lru_cache(maxsize=1024)
def _decoded(fmt: TableFormat) -> Tensor | str:
    if fmt.alternatives:
        return f"{fmt.name} has alternative tables"
    return torch.tensor(fmt.values, dtype=torch.float64).float()


def rule_of(scaling: object, fmt: TableFormat | Format) -> ScaleRule | str:
    """The rule for the scale, or why a kernel cannot be told it."""
    if type(scaling) is Absmax:
        return ScaleRule("absmax", top=float(np.float32(fmt.top if scaling.top is None else scaling.top)))
    if type(scaling) is PowerOfTwo:
        top = fmt.top
        exponent = math.frexp(top)[1] - 1
        mantissa = math.ldexp(top, 23 - exponent) - (1 << 23)  # of the largest number, as an integer where float32 holds it
        kept = exponent - (math.frexp(fmt.step_at_top)[1] - 1)
        thresholds = {"floor": NEVER, "ceil": 1, "rceil": math.floor(mantissa) + 1, "even": (1 << 23) - (1 << max(0, 22 - kept))}
        if scaling.rule == "even" and not 0 <= kept <= 22:
            return f"even rounds to a mantissa of {kept} bits, kernels to 0 to 22"
        return ScaleRule("power_of_two", top_exponent=exponent, threshold=thresholds[scaling.rule])
    if type(scaling) is MinMax:
        if fmt.max - fmt.min != fmt.levels - 1 or fmt.min != int(fmt.min):
            return f"minmax needs a format of consecutive integers, {fmt.name} is none"
        return ScaleRule("minmax", low=fmt.min, high=fmt.max)
    if type(scaling) is SignSplit and fmt.min < 0 < fmt.max:
        return ScaleRule("sign_split", low=fmt.min, high=fmt.max)
    if type(scaling) is Absmean:
        return ScaleRule("absmean", factor=scaling.factor)
    return f"the scale rule {scaling} needs more of a block than its largest, smallest or mean number"
