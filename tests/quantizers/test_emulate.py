"""fake_quantize: quantize and read back, rounded once to the dtype of the input."""

import pytest
import torch

from lowbit.errors import ShapeError, SpecError
from lowbit.philox import Key, noise
from lowbit.quantizers.emulate import fake_quantize
from lowbit.quantizers.spec import quantizer
from lowbit.testing.quantizers import sample

pytestmark = pytest.mark.usefixtures("every_backend")

X = sample((4, 64))


@pytest.mark.parametrize("spec", ["nvfp4", "int4 g32 asym", "float8_e4m3fn", "mxfp4 even"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_quantize_and_dequantize(spec, dtype):
    x = X.to(dtype)
    want = quantizer(spec).quantize(x).dequantize().to(dtype)
    got = fake_quantize(x, spec)
    assert got.dtype == dtype and torch.equal(got, want)
    assert torch.equal(fake_quantize(x, quantizer(spec)), want)


def test_a_place_for_the_result():
    out = torch.empty(4, 64, dtype=torch.bfloat16)
    assert fake_quantize(X, "nvfp4", out) is out
    assert torch.equal(out, fake_quantize(X, "nvfp4").bfloat16())
    with pytest.raises(ShapeError, match=r"out is \(4, 32\), x is \(4, 64\)"):
        fake_quantize(X, "nvfp4", torch.empty(4, 32))


def test_stochastic_rounding_depends_on_the_key_alone():
    spec = "int4 g32 round=stochastic"
    assert torch.equal(fake_quantize(X, spec, key=7), fake_quantize(X, spec, key=Key(7)))
    assert not torch.equal(fake_quantize(X, spec, key=7), fake_quantize(X, spec, key=8))
    want = quantizer(spec).quantize(X, noise=noise(Key(7), (4, 64))).dequantize()
    assert torch.equal(fake_quantize(X, spec, key=7), want)


def test_the_input_is_not_changed():
    x = X.clone()
    fake_quantize(x, "nvfp4")
    assert torch.equal(x, X)


def test_a_spec_that_cannot_be_parsed():
    with pytest.raises(SpecError, match="no quantizer or format is called 'nvfp5'"):
        fake_quantize(X, "nvfp5")
