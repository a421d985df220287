"""Linear: the torch layer on the dequantized weight, bit for bit; one rounding to the dtype of the input; errors name the value."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

import lowbit
from lowbit.errors import NonFiniteError, ShapeError, SpecError
from lowbit.nn.linear import Linear

SPECS = ["nvfp4", "mxfp4", "int4 g64", "int4 g32 asym", "fp8", "nf4", "ternary", "table(-1;0;0.25;1) g32"]


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
    assert torch.equal(packed(x), linear(x, W, layer.bias))
    assert not torch.equal(W, layer.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_result_is_rounded_once(layer, x, dtype):
    layer, x = layer.to(dtype), x.to(dtype)
    packed = Linear.from_float(layer, weights="int4 g64")
    exact = linear(x.float(), packed.weight.dense(), layer.bias.float())
    assert packed(x).dtype == dtype
    assert torch.equal(packed(x), exact.to(dtype))
    assert not torch.equal(packed(x), linear(x, packed.weight.dense().to(dtype), layer.bias))  # what rounding W too would give


def test_activations_are_quantized_before_the_product(layer, x):
    packed = Linear.from_float(layer, weights="nvfp4", activations="mxfp8")
    expected = linear(lowbit.fake_quantize(x, "mxfp8"), lowbit.fake_quantize(layer.weight.detach(), "nvfp4"), layer.bias)
    assert torch.equal(packed(x), expected)
    assert not torch.equal(packed(x), Linear.from_float(layer, weights="nvfp4")(x))


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
