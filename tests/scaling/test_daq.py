"""DAQ: centring on the dense part helps where the mean is off zero."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.formats.normal_float import nf4
from lowbit.quantizers.spec import quantizer
from lowbit.scaling.daq import DAQ, daq


def error(spec, x):
    return (quantizer(spec).quantize(x).dequantize() - x).square().mean().item()


def test_it_helps_off_centre_channels_and_is_neutral_otherwise():
    x = torch.randn(500, 128, generator=torch.Generator().manual_seed(0))
    assert error("nf4_element g128 daq scale=float32", x + 1.0) < 0.7 * error("nf4_element g128 scale=float32", x + 1.0)
    assert error("nf4_element g128 daq scale=float32", x) == pytest.approx(error("nf4_element g128 scale=float32", x), rel=0.1)


def test_the_formula():
    x = torch.arange(41.0).unsqueeze(0) ** 2  # 0 .. 1600; 95 % of the numbers lie between the second and the last but one
    found = daq(x, nf4)
    centre = (1.0 + 39.0**2) / 2
    assert found.offset.item() == centre and found.scale.item() == max(1600 - centre, centre)
    assert DAQ(shrink=0.5)(x, nf4).scale.item() == found.scale.item() / 2
    with pytest.raises(UnsupportedError, match="daq:2:1"):
        DAQ(2.0)
