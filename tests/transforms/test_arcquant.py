"""ARCQuant: the rule for the number of channels by hand; which channels are compensated, and what that is worth."""

import pytest
import torch

from lowbit.philox import Key
from lowbit.quantizers.augmented import Augmented
from lowbit.quantizers.spec import quantizer
from lowbit.testing.transforms import statistics
from lowbit.transforms.arcquant import ARCQuant, Permuted
from lowbit.transforms.transform import Edge

OUTLIERS = [3, 77, 130, 200]


@pytest.fixture
def edge():
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(200, 256, generator=draw)
    X[:, OUTLIERS] *= 20
    return Edge("e", (torch.randn(64, 256, generator=draw),), (quantizer("nvfp4"),), quantizer("nvfp4")), X


def error(edge, X, change, inputs):
    """||Q_x(x') W'^T - x W^T||, with W as it is: what the rounding of the inputs costs."""
    W = edge.weights[0]
    x = change.online(X)
    return float((inputs.quantize(x).dequantize() @ change.consumer(W, None)[0].mT - X @ W.mT).norm())


def test_channels_are_sorted_and_undone():
    change = Permuted(torch.tensor([2, 0, 1], dtype=torch.int32))
    x = torch.tensor([[10.0, 20.0, 30.0]])
    assert change.online(x).tolist() == [[30.0, 10.0, 20.0]]
    assert torch.equal(change.inverse().online(change.online(x)), x)


def test_the_largest_channels_come_last_and_are_compensated(edge):
    edge, X = edge
    transform = ARCQuant(multiple=16)
    stats = statistics(transform, X)
    change = transform.fit(edge, stats, Key())
    assert sorted(change.order[-4:].tolist()) == OUTLIERS
    largest = change.online(X).abs().amax(0)
    assert bool((largest.diff() >= 0).all())
    x = stats["rows"].abs()
    share = (x > x.amax(1, keepdim=True) / 8).double().mean()
    count = 16 * int(torch.ceil(256 * share / 16))
    assert transform.inputs(edge, stats) == Augmented(quantizer("nvfp4"), count)
    assert 0 < count < 64


def test_without_quantized_inputs_there_is_nothing_to_do(edge):
    edge, X = edge
    alone = Edge("e", edge.weights, edge.quantizers)
    assert ARCQuant().fit(alone, statistics(ARCQuant(), X), Key()) is None


def test_random_channels_of_the_same_number_gain_less_than_half(edge):
    """And all of them bring the error of eight bits."""
    edge, X = edge
    transform = ARCQuant(channels=16)
    stats = statistics(transform, X)
    change = transform.fit(edge, stats, Key())
    anywhere = Permuted(torch.randperm(256, generator=torch.Generator().manual_seed(1)).to(torch.int32))
    plain, arc = error(edge, X, change, edge.activations), error(edge, X, change, transform.inputs(edge, stats))
    gained = error(edge, X, anywhere, edge.activations) - error(edge, X, anywhere, Augmented(edge.activations, 16))
    assert arc < 0.5 * plain
    assert gained < 0.5 * (plain - arc)
    full = error(edge, X, change, ARCQuant(channels=256).inputs(edge, stats))
    assert full < 1.1 * error(edge, X, change, quantizer("mxfp8"))
