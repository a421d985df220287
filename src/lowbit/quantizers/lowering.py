"""Lowering: from a scheme to the flat record that kernels take, or to the sentence that says why there is none."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lowbit.formats.format import Format, Overflow
from lowbit.formats.table import TableFormat
from lowbit.kernels.grid_spec import GridSpec, Numbers, ScaleRule
from lowbit.rounding.ieee754 import down
from lowbit.rounding.rounding import Rounding
from lowbit.rounding.stochastic import stochastic
from lowbit.scaling.absmax import Absmax
from lowbit.scaling.minmax import MinMax
from lowbit.scaling.power_of_two import PowerOfTwo

if TYPE_CHECKING:
    from lowbit.quantizers.scheme import Scheme

#: a mantissa that no float32 number reaches: the exponent is never raised
NEVER = 1 << 24


def lowered(scheme: Scheme) -> GridSpec | str:
    """What kernels are told about a scheme, or why they cannot be told."""
    numbers = numbers_of(scheme.format, scheme.rounding, scheme.overflow)
    if isinstance(numbers, str):
        return numbers
    if scheme.scaling is None:
        return GridSpec(numbers, scheme.blocks, ScaleRule())
    if scheme.center is not None:
        return f"the mean of {scheme.center} is subtracted first"
    rule = rule_of(scheme.scaling, scheme.format)
    if isinstance(rule, str):
        return rule
    stored = scheme.scale_quantizer
    if stored is None:
        return GridSpec(numbers, scheme.blocks, rule)
    scale = getattr(stored, "lowered", f"scales are stored by {type(stored).__name__}, which has a grid of its own")
    if isinstance(scale, str):
        return f"scales: {scale}"
    if scale.numbers.stochastic:
        return "scales: stochastic rounding needs noise of their own"
    return GridSpec(numbers, scheme.blocks, rule, scale.numbers if scale.rule.kind == "none" else scale)


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
    return f"the scale rule {scaling} is not known to kernels"
