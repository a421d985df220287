"""Multi-component floats: the record's sum test and the bounds of the components."""

from fractions import Fraction

import pytest
import torch

from lowbit.errors import ShapeError, UnsupportedError
from lowbit.quantizers.collage import components, grow, multiply, two_product, two_sum


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_two_product_is_exact(dtype):
    a, b = (torch.randn(3000, generator=torch.Generator().manual_seed(s)).to(dtype) + 2 for s in (0, 1))
    p, lost = two_product(a, b)
    assert torch.equal(p, a * b) and bool((lost != 0).any())
    for x, y, u, v in zip(a.tolist()[:500], b.tolist(), p.tolist(), lost.tolist(), strict=False):
        assert Fraction(x) * Fraction(y) == Fraction(u) + Fraction(v)
    with pytest.raises(UnsupportedError, match="torch.float64 and torch.float64"):
        two_product(a.double(), b.double())


@pytest.mark.parametrize(("beta", "steps", "wanted"), [(0.999, 2000, 0.1354), (0.95, 40, 0.12852)])
def test_the_records_decays(beta, steps, wanted):
    """A second moment that only decays: bf16(0.999) is 1, so one component never falls, two do."""
    b = torch.tensor(beta).bfloat16()
    db = (beta - b.double()).bfloat16()
    plain, v, dv = (torch.tensor(x).bfloat16() for x in (1.0, 1.0, 0.0))
    for _ in range(steps):
        plain = plain * b
        v, dv = multiply(v, dv, b, db)
    assert v.double().item() + dv.double().item() == pytest.approx(wanted, abs=6e-5)
    assert beta != 0.999 or plain.item() == 1.0
