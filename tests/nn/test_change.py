"""Changes in front of layers: computed, handed over, described and attached again."""

import pytest
import torch
from torch import nn

from lowbit.errors import CheckpointError
from lowbit.nn.change import attach, attached, describe, described, detach
from lowbit.nn.linear import Linear
from lowbit.nn.replace import put
from lowbit.philox import Key
from lowbit.transforms.hadamard import Turned
from lowbit.transforms.transform import Scaled


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.Conv2d(4, 2, 1))


def changes():
    return Scaled(torch.rand(16) + 1, torch.randn(16)), Turned.of(16, 8, Key())


def test_several_changes_are_computed_in_order():
    layer, x = model()[0], torch.randn(3, 16)
    first, second = changes()
    attach(layer, first)
    attach(layer, second)
    torch.testing.assert_close(layer(x), nn.functional.linear(second.online(first.online(x)), layer.weight, layer.bias))
    detach(layer)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    assert not layer._forward_pre_hooks
    assert attached(layer) is None


def test_after_a_layer():
    layer, x = model()[0], torch.randn(3, 16)
    plain = layer(x)
    attach(layer, changes()[1], "output")
    torch.testing.assert_close(layer(x), changes()[1].online(plain))


def test_channels_of_images_lie_on_the_second_axis():
    layer, x, s = model()[1], torch.randn(2, 4, 3, 3), torch.tensor([1.0, 2.0, 4.0, 8.0])
    expected = layer(x / s.reshape(1, 4, 1, 1))
    attach(layer, Scaled(s))
    torch.testing.assert_close(layer(x), expected)


def test_a_packed_layer_takes_them_over():
    whole, x = model(), torch.randn(3, 16)
    change = changes()[1]
    attach(whole[0], change)
    packed = Linear.from_float(whole[0], "int8")
    put(whole, "0", packed)
    torch.testing.assert_close(whole[0](x), packed.forward(change.online(x)))
    assert "0.change.0_signs" in whole.state_dict()


def test_described_and_attached_again():
    one, other, x = model(), model(), torch.randn(3, 16)
    for change in changes():
        attach(one[0], change)
    facts = describe(one)
    assert list(facts) == ["0"]
    parts = {n.removeprefix("0.change."): t for n, t in one.state_dict().items() if n.startswith("0.change.")}
    described(other[0], facts["0"], parts)
    assert torch.equal(one[0](x), other[0](x))


@pytest.mark.parametrize("wrong", [
    {"side": "below"}, {"kinds": ["unheard"]}, {"kinds": []}, {"parts": {"0_scale": [3]}}, {"parts": {"0_other": [16]}},
])  # fmt: skip
def test_a_description_that_does_not_fit_is_refused(wrong):
    facts = {"side": "input", "kinds": ["scaled"], "parts": {"0_scale": [16]}} | wrong
    with pytest.raises(CheckpointError, match="the changes of a Linear are described by"):
        described(model()[0], facts, {"0_scale": torch.ones(16)})
