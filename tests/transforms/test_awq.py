"""AWQ's search finds the least error of its candidates, by hand."""

import pytest
import torch

from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.transforms.awq import AWQ
from lowbit.transforms.loss import gram_loss
from lowbit.transforms.transform import Edge, Scaled


@pytest.fixture
def salient():
    """A few channels carry most of what the layer reads."""
    draw = torch.Generator().manual_seed(1)
    X = torch.randn(256, 64, generator=draw)
    X[:, :4] *= 25
    return Edge("e", (torch.randn(48, 64, generator=draw),), (quantizer("int3 g64"),), None, "norm", torch.arange(64)), X


def by_hand(edge, X, s):
    W = edge.weights[0]
    Q = edge.quantizers[0].quantize(W * s).dequantize() / s
    return float(((X @ (Q - W).mT).double() ** 2).sum())


def test_the_best_of_twenty_powers(salient):
    edge, X = salient
    magnitude = X.double().abs().mean(0)
    change = AWQ().fit(edge, {"absmean": magnitude, "gram": X.double().mT @ X.double()}, Key())
    losses = []
    for i in range(20):
        s = magnitude ** (i / 20)
        losses.append(by_hand(edge, X, (s / (s.max() * s.min()).sqrt()).float()))
    best = losses.index(min(losses))
    s = magnitude ** (best / 20)
    torch.testing.assert_close(change.scale, (s / (s.max() * s.min()).sqrt()).float())
    assert losses[best] < 0.6 * losses[0]


def test_the_gram_loss_is_that_of_the_outputs(salient):
    edge, X = salient
    s = torch.rand(64, generator=torch.Generator().manual_seed(2)) + 0.5
    assert gram_loss(edge, X.double().mT @ X.double(), Scaled(s)) == pytest.approx(by_hand(edge, X, s), rel=1e-3)


def test_an_edge_without_a_producer_is_left_alone(salient):
    edge, X = salient
    alone = Edge("e", edge.weights, edge.quantizers)
    assert AWQ().fit(alone, {"absmean": X.double().abs().mean(0), "gram": X.double().mT @ X.double()}, Key()) is None
