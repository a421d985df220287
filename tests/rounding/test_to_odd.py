"""Round to odd: what is not a number goes to the odd neighbour, so that rounding twice is rounding once."""

import pytest
import torch

from lowbit import catalog
from lowbit.formats.minifloat import float4_e2m1fn, from_name
from lowbit.rounding.ieee754 import nearest_even
from lowbit.rounding.to_odd import to_odd


def test_worked_example():
    """The odd codes of e2m1 are 0.5, 1.5, 3 and 6."""
    y = torch.tensor([0.1, 0.9, 1.1, 1.9, 2.1, 3.9, 4.1, 0.0, 1.0, 4.0])
    want = [0.5, 0.5, 1.5, 1.5, 3.0, 3.0, 6.0, 0.0, 1.0, 4.0]
    assert float4_e2m1fn.decode(float4_e2m1fn.encode(y, to_odd)).tolist() == want
    assert float4_e2m1fn.decode(float4_e2m1fn.encode(-y, to_odd)).tolist() == [-v for v in want]


@pytest.mark.parametrize("narrow, wide", [("e4m3fn", "e4m5f"), ("e5m2", "bf16"), ("e3m2f", "e3m5f")])
def test_double_rounding_is_innocent(narrow, wide):
    """Boldo and Melquiond, theorem 3: to odd with two more bits, then to nearest, is to nearest."""
    narrow, wide = (catalog.lookup("format", n).thing if catalog.lookup("format", n) else from_name(n) for n in (narrow, wide))
    g = torch.Generator().manual_seed(0)
    y = torch.randn(20_000, generator=g) * 10.0 ** torch.linspace(-4, 2, 20_000)
    y = y.clamp(narrow.min, narrow.max)
    middle = wide.decode(torch.arange(2**wide.bits)).double()
    middle = middle[middle.isfinite()].unique()
    middle = ((middle[1:] + middle[:-1]) / 2).float().clamp(narrow.min, narrow.max)
    y = torch.cat((y, middle, torch.nextafter(middle, torch.tensor(0.0))))
    once = narrow.encode(y)
    assert torch.equal(narrow.encode(wide.decode(wide.encode(y, to_odd))), once)
    assert not torch.equal(narrow.encode(wide.decode(wide.encode(y, nearest_even))), once)
