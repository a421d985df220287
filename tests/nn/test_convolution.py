"""Convolution: the torch layer on the dequantized weight, whatever its stride, groups, dilation and padding."""

import copy

import pytest
import torch
from torch import nn

import lowbit
from lowbit.nn.convolution import Convolution

LAYERS = {
    "1d": lambda: nn.Conv1d(8, 16, 4, stride=2, padding=1),
    "depthwise": lambda: nn.Conv1d(16, 16, 4, groups=16, padding=3),
    "2d": lambda: nn.Conv2d(8, 16, 3, padding=1),
    "stride": lambda: nn.Conv2d(8, 16, (3, 1), stride=(2, 1), bias=False),
    "groups": lambda: nn.Conv2d(8, 16, 4, groups=4),
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


@pytest.mark.parametrize("spec", ["int4", "int8 g4", "e4m3fn g4"])
def test_it_is_the_torch_layer_on_the_dequantized_weight(layer, spec):
    if layer.weight[0].numel() % 4:
        spec += " ragged"
    x, expected = images(layer), with_weight(layer, spec)
    packed = lowbit.quantize(nn.Sequential(layer), spec)[0]
    assert isinstance(packed, Convolution)
    assert torch.equal(packed(x), expected(x))


def test_a_16_bit_result_is_rounded_once(layer):
    expected = with_weight(copy.deepcopy(layer).bfloat16().float(), "int4")
    packed = lowbit.quantize(nn.Sequential(layer.bfloat16()), "int4")[0]
    x = images(layer).bfloat16()
    assert torch.equal(packed(x), expected(x.float()).bfloat16())


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
