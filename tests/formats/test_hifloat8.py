"""HiFloat8 against the record's facts and against a rounding written from its definition, on every float16 number."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from lowbit.formats.hifloat8 import hifloat8


def round_half_away(x):
    """In the binade of x with 3, 2, 1 or 0 mantissa bits; from 2**-23 on nothing is lost to zero, from 1.25 * 2**15 on all is Inf."""
    size = abs(x)
    if math.isnan(x) or math.isinf(x):
        return x
    if size >= 1.25 * 2.0**15:
        return math.copysign(math.inf, x)
    if size < 2.0**-23:
        return 0.0
    e = max(math.frexp(size)[1] - 1, -22)
    bits = 3 if abs(e) <= 3 else 2 if abs(e) <= 7 else 1 if abs(e) <= 15 else 0
    return math.copysign(math.floor(size * 2.0 ** (bits - e) + 0.5) * 2.0 ** (e - bits), x)


def test_the_table_has_the_records_population():
    finite = [v for v in hifloat8.values if math.isfinite(v)]
    assert len(finite) == 253 and sum(map(math.isnan, hifloat8.values)) == 1 and sum(map(math.isinf, hifloat8.values)) == 2
    assert hifloat8.values[0] == 0 and math.isnan(hifloat8.values[0x80]) and hifloat8.values[0x6F] == math.inf and hifloat8.max == 2.0**15
    binades = Counter(math.frexp(v)[1] - 1 for v in finite if v > 0)
    want = {e: 8 if abs(e) <= 3 else 4 if abs(e) <= 7 else 2 if abs(e) <= 14 or e == -15 else 1 for e in range(-22, 16)}
    assert binades == want


def test_every_float16_number_is_rounded_as_defined():
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    got = hifloat8.decode(hifloat8.encode(torch.from_numpy(x), overflow="special")).numpy()
    want = np.array([round_half_away(float(v)) for v in x], dtype=np.float32)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_ends(sign):
    y = sign * torch.tensor([40959.0, 40960.0, 2.0**-23, 2.0**-23 * 0.999])
    assert hifloat8.decode(hifloat8.encode(y, overflow="special")).tolist() == [sign * v for v in (2.0**15, math.inf, 2.0**-22, 0.0)]
    assert hifloat8.decode(hifloat8.encode(y))[1].item() == sign * 2.0**15
