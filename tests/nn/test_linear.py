"""Linear: the torch layer on the dequantized weight, bit for bit without a kernel and within a bound with one; errors name the value."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

import lowbit
from lowbit.errors import NonFiniteError, ShapeError, SpecError
from lowbit.kernels.op import backend, extension
from lowbit.nn.linear import Linear
from lowbit.nn.packed import keep_dense

SPECS = ["nvfp4", "mxfp4", "int4 g64", "int4 g32 asym", "fp8", "nf4", "ternary", "table(-1;0;0.25;1) g32"]


def bound(x, W):
    """What float32 sums of so many products can be off: each of them, the scale, the offset and the bias round once or twice."""
    return 2.0**-24 * (x.shape[-1] + 8) * (linear(x.abs().double(), W.abs().double()) + 1)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(128, 48)


@pytest.fixture
def x():
    return torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_torch_function_on_the_dequantized_weight(layer, x, spec, bias):
    if not bias:
        layer.bias = None
    W = lowbit.fake_quantize(layer.weight.detach(), spec)
    packed = Linear.from_float(layer, weights=spec)
    with backend("reference"):
        assert torch.equal(packed(x), linear(x, W, layer.bias))
    assert not torch.equal(W, layer.weight)
    if extension("lowbit._cpu") is not None:
        with backend("cpu"), torch.no_grad():
            assert bool(
                ((packed(x) - linear(x.double(), W.double(), None if not bias else layer.bias.double())).abs() <= bound(x, W)).all()
            )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_result_is_rounded_once(layer, x, dtype):
    layer, x = layer.to(dtype), x.to(dtype)
    packed = Linear.from_float(layer, weights="int4 g64")
    exact = linear(x.float(), packed.weight.dense(), layer.bias.float())
    assert packed(x).dtype == dtype
    with backend("reference"):
        assert torch.equal(packed(x), exact.to(dtype))
    assert not torch.equal(packed(x), linear(x, packed.weight.dense().to(dtype), layer.bias))  # what rounding W too would give


def test_activations_are_quantized_before_the_product(layer, x):
    packed = Linear.from_float(layer, weights="nvfp4", activations="mxfp8")
    expected = linear(lowbit.fake_quantize(x, "mxfp8"), lowbit.fake_quantize(layer.weight.detach(), "nvfp4"), layer.bias)
    with backend("reference"):
        assert torch.equal(packed(x), expected)
    torch.testing.assert_close(packed(x), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(packed(x), Linear.from_float(layer, weights="nvfp4")(x), rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(extension("lowbit._cpu") is None, reason="lowbit._cpu was not built")
@pytest.mark.parametrize("weights", ["int8 g32", "int4 g64", "int4 g32 asym", "ternary"])
def test_int8_inputs_of_a_token_go_through_the_integer_kernel(layer, x, weights):
    packed = Linear.from_float(layer, weights=weights, activations="int8 scale=float32")
    assert packed.route() == ("qlinear_int8", "")
    inputs = lowbit.fake_quantize(x, "int8 scale=float32")
    W = packed.weight.dense()
    with torch.no_grad():
        difference = (packed(x) - linear(inputs.double(), W.double(), layer.bias.double())).abs()
    assert bool((difference <= bound(inputs, W)).all())
    other = Linear.from_float(layer, weights=weights, activations="int8")
    assert other.route().kernel == "qlinear" and other.route().refused.startswith("inputs in int8, not 'int8 scale=float32'")


@pytest.mark.skipif(extension("lowbit._cpu") is None, reason="lowbit._cpu was not built")
def test_a_dense_copy_is_kept_only_where_it_is_asked_for_or_no_kernel_serves(layer, x):
    served, refused = Linear.from_float(layer, "int4 g64"), Linear.from_float(layer, "e2m1 g32 sign_split")
    with torch.no_grad():
        exact, _ = linear(x, served.weight.dense(), layer.bias), refused(x)
        assert refused.weight.kept is not None and refused.route().refused == "qlinear: negative numbers have scales of their own"
        served(x)
        assert served.weight.kept is None and served.route() == ("qlinear", "")
        keep_dense(served)
        assert torch.equal(served(x), exact) and served.weight.kept is not None
        keep_dense(refused, False)
        refused(x)
        assert refused.weight.kept is None


def test_activations_of_a_row_do_not_know_the_batch(layer, x):
    packed = Linear.from_float(layer, weights="int8", activations="int8")
    rows = torch.stack([packed.activations.quantize(row).dequantize() for row in x])
    assert torch.equal(rows, packed.activations.quantize(x).dequantize())


def test_gradients_reach_the_input_only(layer, x):
    packed = Linear.from_float(layer, weights="int4 g64")
    x.requires_grad_()
    packed(x).sum().backward()
    torch.testing.assert_close(x.grad[0, 0], packed.weight.dense().sum(0))
    assert [n for n, p in packed.named_parameters() if p.requires_grad] == []


def test_the_layer_it_came_from_stays_as_it_is(layer, x):
    before = layer(x)
    Linear.from_float(layer, weights="int2 g64")
    assert torch.equal(layer(x), before)


def test_it_prints_its_shape_and_its_true_bits(layer):
    words = repr(Linear.from_float(layer, weights="int4 g64"))
    assert "in_features=128, out_features=48, bias=True" in words
    assert "(48, 128), int4 g64, 4.250 bits" in words


def test_blocks_that_do_not_divide_are_named(layer):
    with pytest.raises(ShapeError, match="axis 1 has 128 elements, not a multiple of the block 48"):
        Linear.from_float(layer, weights="int4 g48")


def test_a_spec_that_does_not_parse_is_named(layer):
    with pytest.raises(SpecError, match="did you mean 'nvfp4'"):
        Linear.from_float(layer, weights="nvfp5")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(layer, value):
    with torch.no_grad():
        layer.weight[3, 4] = value
    with pytest.raises(NonFiniteError, match="NaN or Inf"):
        Linear.from_float(layer)
