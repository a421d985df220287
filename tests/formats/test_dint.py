"""dINT: the half steps, the interval that underflows, and the record's figures on normal groups of 128."""

import pytest
import torch

from lowbit.formats.dint import dint4
from lowbit.quantizers.spec import quantizer


def test_values_and_ties():
    assert sorted(dint4.values) == [-6, -5, -4, -3, -2, -1, -0.5, 0, 0.5, 1, 2, 3, 4, 5, 6, 7]
    ties = torch.tensor([0.25, 0.75, -0.25, -0.75, 1.5, 2.5])
    assert dint4.decode(dint4.encode(ties)).tolist() == [0.0, 1.0, 0.0, -1.0, 2.0, 2.0]


def test_figures_of_the_record():
    x = torch.randn(4000, 128, generator=torch.Generator().manual_seed(0))
    found = {}
    for spec in ("int4_narrow g128", "dint4 g128"):
        y = quantizer(spec).quantize(x).dequantize()
        found[spec] = ((y - x).square().mean() / x.square().mean()).item(), (y == 0).float().mean().item()
    assert found["int4_narrow g128"] == pytest.approx((0.0138, 0.160), rel=0.01)
    assert found["dint4 g128"] == pytest.approx((0.0134, 0.093), rel=0.02)
