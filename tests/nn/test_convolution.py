"""Convolution: the torch layer on the dequantized weight, whatever its stride, groups, dilation and padding, with every kernel."""

import copy
import math

import pytest
import torch
from torch import nn

import lowbit
from lowbit.errors import NoKernel
from lowbit.kernels.op import backend, extension
from lowbit.nn import convolution
from lowbit.nn.convolution import Convolution

needs_extension = pytest.mark.skipif(extension("lowbit._cpu") is None, reason="lowbit._cpu was not built")

LAYERS = {
    "1d": lambda: nn.Conv1d(8, 16, 4, stride=2, padding=1),
    "depthwise": lambda: nn.Conv1d(16, 16, 4, groups=16, padding=3),
    "2d": lambda: nn.Conv2d(8, 16, 3, padding=1),
    "stride": lambda: nn.Conv2d(8, 16, (3, 1), stride=(2, 1), bias=False),
    "groups": lambda: nn.Conv2d(8, 16, 4, groups=4),
    "groups of a tile": lambda: nn.Conv2d(8, 64, 3, groups=2, stride=2, padding=(2, 1)),
    "1x1": lambda: nn.Conv2d(8, 24, 1),
    "dilation": lambda: nn.Conv2d(8, 16, 2, dilation=3),
    "reflect": lambda: nn.Conv2d(8, 16, 3, padding=1, padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(8, 16, 3, padding=(1, 0), padding_mode="circular"),
    "same": lambda: nn.Conv2d(8, 16, 3, padding="same"),
    "3d": lambda: nn.Conv3d(8, 16, 2, padding=1, padding_mode="replicate"),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    torch.manual_seed(0)
    return request.param()


def images(layer):
    return torch.randn(2, layer.in_channels, *(8,) * len(layer.kernel_size), generator=torch.Generator().manual_seed(1))


def with_weight(layer, spec):
    """A torch layer on the numbers that the spec gives to the weight as a matrix (out, everything else)."""
    layer = copy.deepcopy(layer)
    matrix = lowbit.fake_quantize(layer.weight.detach().flatten(1), spec)
    layer.weight.data = matrix.reshape(layer.weight.shape)
    return layer


@pytest.mark.parametrize("spec", ["int4", "int8 g4", "e4m3fn g4", "int4 g4 asym"])
def test_it_is_the_torch_layer_on_the_dequantized_weight(layer, spec):
    if layer.weight[0].numel() % 4:
        spec += " ragged"
    x, expected = images(layer), with_weight(layer, spec)
    packed = lowbit.quantize(nn.Sequential(layer), spec)[0]
    assert isinstance(packed, Convolution)
    with backend("reference"):
        assert torch.equal(packed(x), expected(x))
        assert torch.equal(packed(x[0]), expected(x[0]))
    y = packed(x)
    assert y.is_contiguous()
    torch.testing.assert_close(y, expected(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed(x[1]), y[1], rtol=1e-5, atol=1e-5)


@needs_extension
def test_which_kernel_and_why_not(layer):
    packed = lowbit.quantize(nn.Sequential(layer), "int4")[0]
    rows = layer.out_channels // layer.groups
    if layer.groups > 1 and rows % 16:
        assert packed.route() == ("torch", f"qlinear: its groups have {rows} output{'s' * (rows > 1)}, the kernel takes 16 at a time")
        with backend("cpu"), pytest.raises(NoKernel, match="takes 16 at a time"), torch.no_grad():
            packed(images(layer))
        return
    assert packed.route() == ("qlinear on patches", f"torch on the weight decoded anew with more than {layer.out_channels} places")
    x, expected = images(layer), with_weight(layer, "int4")
    with backend("cpu"), torch.no_grad():
        packed_only = packed(x)
    few = 1 if math.prod(packed_only.shape[2:]) <= layer.out_channels else 0
    for samples in {2, few}:  # many places and few
        torch.testing.assert_close(packed(x[:samples]), expected(x[:samples]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(packed_only[:samples], expected(x[:samples]), rtol=1e-5, atol=1e-5)
    assert packed.weight.kept is None
    assert packed(images(layer).requires_grad_()).requires_grad  # where a gradient is wanted, torch multiplies


@needs_extension
@pytest.mark.parametrize("room", [1, 300, 5000])
def test_pieces_of_any_size_give_the_whole(layer, room, monkeypatch):
    packed, x = lowbit.quantize(nn.Sequential(layer), "nf4_single g8 ragged")[0], images(layer)
    whole = packed(x)
    monkeypatch.setattr(convolution, "ROOM", room)
    monkeypatch.setattr(convolution, "FEW_PLACES", 1000)
    torch.testing.assert_close(packed(x), whole, rtol=1e-5, atol=1e-5)
    assert packed(x[:0]).shape == (0, *whole.shape[1:])


def test_a_16_bit_result_is_rounded_once(layer):
    expected = with_weight(copy.deepcopy(layer).bfloat16().float(), "int4")
    packed = lowbit.quantize(nn.Sequential(layer.bfloat16()), "int4")[0]
    x = images(layer).bfloat16()
    with backend("reference"):
        assert torch.equal(packed(x), expected(x.float()).bfloat16())
    assert torch.equal(packed(x), packed(x.float()).bfloat16())


def test_the_layer_it_came_from_stays_as_it_is(layer):
    x = images(layer)
    before = layer(x)
    lowbit.quantize(nn.Sequential(layer), "int2")
    assert torch.equal(layer(x), before)


def test_a_network_of_convolutions_keeps_its_names():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 10)).eval()
    x = torch.randn(2, 3, 8, 8)
    before = network(x)
    names = {n.partition(".weight")[0] for n in network.state_dict()}
    lowbit.quantize(network, "int8")
    assert {n.partition(".weight")[0] for n in network.state_dict()} == names
    assert 0 < (network(x) - before).abs().max() < 0.05 * before.abs().max()
