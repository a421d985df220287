"""Minifloats: sign, exponent and mantissa, any widths, any bias, with whatever a standard keeps for Inf and NaN."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Overflow
from lowbit.formats.middles import to_nearest
from lowbit.formats.table import TableFormat
from lowbit.rounding.ieee754 import nearest_even
from lowbit.rounding.rounding import Rounding

FP8 = Source(
    "FP8 Formats for Deep Learning",
    "Micikevicius et al.",
    2022,
    "arXiv:2209.05433",
    parts="section 3, table 1",
    records=("fp8-formats",),
)
FNUZ = Source(
    "8-bit Numerical Formats for Deep Neural Networks",
    "Noune, Jones, Justus, Masters, Luschi",
    2022,
    "arXiv:2206.02915",
    parts="one NaN at the code of -0, bias one larger",
    records=("fp8-formats",),
)
OCP_MX = Source(
    "OCP Microscaling Formats (MX) Specification v1.0",
    "Open Compute Project",
    2023,
    "OCP MX v1.0",
    parts="5.3 element formats, 5.4 scale format",
    departs="e8m0: ties go up, as in ml_dtypes and torch; zero and negative numbers, and all that is below 2**-127, become the "
    "smallest scale (overflow=special: zero and negative numbers become NaN); a NaN has one code.",
)
IEEE754 = Source("IEEE Standard for Floating-Point Arithmetic", "IEEE", 2019, "IEEE 754-2019", parts="3.4", records=("bf16-training",))
ML_DTYPES = Source(
    "ml_dtypes: stand-alone implementations of common ML dtypes",
    "JAX authors",
    2022,
    "https://github.com/jax-ml/ml_dtypes",
    parts="the definitions behind float8_e3m4, float8_e4m3, float8_e4m3b11fnuz",
    records=("fp8-formats",),
)
POWER = Source(
    "FP8 Quantization: The Power of the Exponent",
    "Kuzmin, van Baalen, Ren, Nagel, Peters, Blankevoort",
    2022,
    "arXiv:2208.09225",
    parts="any split of the bits between exponent and mantissa, any real bias; the search over both for the least squared error",
    records=("fp8-exponent",),
)

#: what the all-ones exponent holds: Inf and NaN as in IEEE 754; numbers, with NaN at the all-ones code only;
#: numbers, with the single NaN at the code of -0; numbers and nothing else
Specials = Literal["ieee", "fn", "fnuz", "numbers"]


def minifloat(
    name: str, exponent: int, mantissa: int, *, bias: float | None = None, specials: Specials = "ieee", signed: bool = True
) -> TableFormat:
    """The format with ``exponent`` and ``mantissa`` bits, and a sign bit when ``signed``.

    Value of a code with fields s, E, M::

        E > 0:  (-1)^s * 2^(E-bias) * (1 + M / 2^mantissa)
        E = 0:  (-1)^s * 2^(1-bias) * (M / 2^mantissa)

    Args:
        bias: 2**(exponent-1) - 1 by default, one more for ``fnuz``; may be a real number.

    Raises:
        UnsupportedError: no exponent bit, more than 16 bits in all, or a number that float32 cannot hold.
    """
    if exponent < 1 or mantissa < 0 or signed + exponent + mantissa > 16:
        raise UnsupportedError(
            f"{name}: {exponent} exponent and {mantissa} mantissa bits; a minifloat has 1 or more and at most 16 bits in all"
        )
    if bias is None:
        bias = 2 ** (exponent - 1) - (0 if specials == "fnuz" else 1)
    steps, top = 2**mantissa, 2**exponent - 1

    def value(code: int) -> float:
        s, E, M = code >> exponent + mantissa, code >> mantissa & top, code & steps - 1
        sign = -1.0 if s else 1.0
        if specials == "ieee" and E == top:
            return math.copysign(math.nan, sign) if M else sign * math.inf
        if specials == "fn" and E == top and M == steps - 1:
            return math.copysign(math.nan, sign)
        if specials == "fnuz" and s and E == 0 and M == 0:
            return math.nan
        return sign * (2.0 ** (E - bias) * (1 + M / steps) if E else 2.0 ** (1 - bias) * M / steps)

    try:
        return TableFormat(name, tuple(value(code) for code in range(2 ** (signed + exponent + mantissa))))
    except OverflowError:
        raise UnsupportedError(f"{name}: a bias of {bias:g} leads beyond the numbers of float32") from None


def _add(source: Source, fmt: TableFormat, *aliases: str) -> TableFormat:
    return register("format", fmt.name, source, aliases=aliases)(fmt)


float8_e4m3fn = _add(FP8, minifloat("float8_e4m3fn", 4, 3, specials="fn"), "e4m3fn")
float8_e5m2 = _add(FP8, minifloat("float8_e5m2", 5, 2), "e5m2")
float8_e4m3 = _add(ML_DTYPES, minifloat("float8_e4m3", 4, 3), "e4m3")
float8_e3m4 = _add(ML_DTYPES, minifloat("float8_e3m4", 3, 4), "e3m4")
float8_e4m3fnuz = _add(FNUZ, minifloat("float8_e4m3fnuz", 4, 3, specials="fnuz"), "e4m3fnuz")
float8_e5m2fnuz = _add(FNUZ, minifloat("float8_e5m2fnuz", 5, 2, specials="fnuz"), "e5m2fnuz")
float8_e4m3b11fnuz = _add(ML_DTYPES, minifloat("float8_e4m3b11fnuz", 4, 3, bias=11, specials="fnuz"), "e4m3b11fnuz")
float6_e3m2fn = _add(OCP_MX, minifloat("float6_e3m2fn", 3, 2, specials="numbers"), "e3m2fn", "e3m2")
float6_e2m3fn = _add(OCP_MX, minifloat("float6_e2m3fn", 2, 3, specials="numbers"), "e2m3fn", "e2m3")
float4_e2m1fn = _add(OCP_MX, minifloat("float4_e2m1fn", 2, 1, specials="numbers"), "e2m1fn", "e2m1")
float8_e8m0fnu = _add(
    OCP_MX,
    TableFormat("float8_e8m0fnu", (*(2.0 ** (code - 127) for code in range(255)), math.nan), odd=(True,) * 256),
    "e8m0fnu",
    "e8m0",
)
float16 = _add(IEEE754, minifloat("float16", 5, 10), "binary16", "fp16", "half")
bfloat16 = _add(IEEE754, minifloat("bfloat16", 8, 7), "bf16")


@dataclass(frozen=True, eq=False)
class FlushedFormat(TableFormat):
    """A minifloat whose smallest numbers are zeros: roundings to nearest take all that is below the smallest normal number to zero.

    Other roundings act on the numbers.
    """

    def cutpoints(
        self, rounding: Rounding = nearest_even, dtype: torch.dtype = torch.float32, overflow: Overflow = "saturate", table: int = 0
    ) -> Tensor:
        """For each pair of neighbours the smallest input that goes up; see ``TableFormat``."""
        cuts = super().cutpoints(rounding, dtype, overflow, table)
        if not to_nearest(rounding):
            return cuts
        values, cuts = self.lines[table].ends(overflow)[0], cuts.clone()
        zero = values.index(0.0)
        cuts[zero] = values[zero + 1]
        if zero:
            cuts[zero - 1] = -torch.nextafter(torch.tensor(-values[zero - 1], dtype=dtype), torch.zeros((), dtype=dtype))
        return cuts


def flushed(name: str, fmt: TableFormat, mantissa: int) -> FlushedFormat:
    """A minifloat without subnormal numbers: codes with exponent 0 are zeros of their sign (FTZ and DAZ of processors)."""
    half = len(fmt.values) // (1 + (fmt.min < 0))
    tiny = [1 <= code % half < 2**mantissa for code in range(len(fmt.values))]
    values = tuple(math.copysign(0.0, v) if small else v for v, small in zip(fmt.values, tiny, strict=True))
    return FlushedFormat(name, values, reserved=frozenset(code for code, small in enumerate(tiny) if small))


NAME = re.compile(r"(?P<unsigned>u?)e(?P<E>\d+)m(?P<M>\d+)(?:b(?P<bias>-?\d+(?:\.\d+)?))?(?P<specials>fnuz|fn|f|)(?P<flush>(?:_ftz)?)")


@register("format family", "eXmY", POWER)
def from_name(name: str) -> TableFormat | None:
    """Any minifloat by its name: [u]e<exponent>m<mantissa>[b<bias>][fn|fnuz|f][_ftz].

    No suffix keeps Inf and NaN as IEEE 754 does; ``fn`` has NaN at the all-ones code, ``fnuz`` one NaN at the code
    of -0, ``f`` nothing but numbers; ``u`` leaves out the sign; ``b`` sets the bias, real numbers allowed; ``_ftz`` has no
    subnormal numbers.
    """
    match = NAME.fullmatch(name)
    if match is None:
        return None
    kinds: dict[str, Specials] = {"": "ieee", "fn": "fn", "fnuz": "fnuz", "f": "numbers"}
    bias = None if match["bias"] is None else float(match["bias"])
    found = minifloat(name, int(match["E"]), int(match["M"]), bias=bias, specials=kinds[match["specials"]], signed=not match["unsigned"])
    return flushed(name, found, int(match["M"])) if match["flush"] else found
