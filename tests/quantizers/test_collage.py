"""Multi-component floats: the record's sum test and the bounds of the components."""

import pytest
import torch

from lowbit.errors import ShapeError
from lowbit.quantizers.collage import components, grow, two_sum


def test_two_components_leave_little_and_three_nothing():
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).double()
    x = (x * torch.exp2(torch.randint(-30, 30, (10_000,), generator=torch.Generator().manual_seed(1)).double())).float()
    assert bool(((components(x, 2).dequantize() - x).abs() <= 2.0**-17 * x.abs()).all())
    assert torch.equal(components(x, 3).dequantize(), x)
    with pytest.raises(ShapeError, match="0 components"):
        components(x, 0)


def test_two_sum_is_exact_in_bfloat16():
    a, b = (torch.randn(5000, generator=torch.Generator().manual_seed(s)).bfloat16() for s in (0, 1))
    s, lost = two_sum(a, b * 2.0**-6)
    assert torch.equal(s.double() + lost.double(), a.double() + (b * 2.0**-6).double())


def test_the_records_sum():
    """bf16(1e-4) added ten thousand times to 1: bfloat16 stays at 1, two components reach 2.026 (the true sum is 2.001)."""
    step = torch.tensor(1e-4).bfloat16()
    plain, x, dx = (torch.tensor(v).bfloat16() for v in (1.0, 1.0, 0.0))
    for _ in range(10_000):
        plain = plain + step
        x, dx = grow(x, dx, step)
    assert plain.item() == 1.0
    assert x.double().item() + dx.double().item() == pytest.approx(2.026, abs=0.03)
