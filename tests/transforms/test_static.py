"""Static ranges: the scale is that of the rule on the calibration data, it stays, and it prints and parses with the layer."""

import pytest
import torch

from lowbit.errors import DataError, UnsupportedError
from lowbit.quantizers.spec import quantizer, text
from lowbit.testing.transforms import statistics
from lowbit.transforms.static import Static
from lowbit.transforms.transform import Edge

X = torch.randn(96, 64, generator=torch.Generator().manual_seed(0)) * 3


def frozen(spec, x=X, high=float("inf")):
    edge = Edge("e", (torch.randn(4, 64),), (quantizer("int4"),), quantizer(spec))
    return Static(high).inputs(edge, statistics(Static(), x))


@pytest.mark.parametrize("spec", ["int8 tensor", "int8 tensor scale=float32", "float8_e4m3fn tensor", "nvfp4"])
def test_on_the_calibration_data_it_is_the_dynamic_quantizer(spec):
    found = frozen(spec)
    torch.testing.assert_close(found.quantize(X).dequantize(), quantizer(spec).quantize(X).dequantize(), rtol=1e-6, atol=1e-6)
    assert quantizer(text(found)) == found


def test_the_scale_stays_and_what_is_beyond_saturates():
    found = frozen("int8 tensor scale=float32")
    largest = float(X.abs().max())
    few = torch.tensor([[0.01 * largest, 1.0] * 32])
    steps = found.quantize(few).dequantize() / (largest / 127)
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.quantize(X * 5).dequantize().max(), torch.tensor(largest))


def test_other_rules_see_rows():
    rows = statistics(Static(), X)["rows"]
    for rule in ("mse", "percentile:0.99"):
        scale = quantizer(f"int8 tensor {rule} scale=float32").grid(rows).scale
        assert frozen(f"int8 tensor {rule} scale=float32").quantize(X).grid.scale == pytest.approx(float(scale), rel=1e-6)


def test_where_inputs_are_large_rows_keep_their_scales():
    assert frozen("int8 tensor", high=5.0) == quantizer("int8 row")
    assert text(frozen("int8 tensor", high=50.0)).startswith("int8 tensor delayed:")


def test_what_cannot_be_fixed_says_so():
    assert frozen("int8 tensor", X * 0) is None
    with pytest.raises(UnsupportedError, match="int4 g64 have no scale of the whole tensor that could be fixed"):
        frozen("int4 g64")
    with pytest.raises(UnsupportedError, match="has more than one scale to fix"):
        frozen("uint8 tensor minmax")
    with pytest.raises(DataError, match="static:high=0: it is above 0"):
        Static(0)
