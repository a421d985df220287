"""SmoothQuant's formula, and that it evens out what the paper says."""

import torch

from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.testing.transforms import edges, statistics
from lowbit.transforms.loss import output_loss
from lowbit.transforms.smoothquant import SmoothQuant
from lowbit.transforms.transform import Edge, Scaled


def test_the_formula():
    W = torch.tensor([[1.0, -4.0], [0.5, 2.0]])
    edge = Edge("e", (W,), (quantizer("int8"),), None, "norm", torch.arange(2))
    found = SmoothQuant(0.75).fit(edge, {"absmax": torch.tensor([16.0, 1.0])}, Key())
    torch.testing.assert_close(found.scale, torch.tensor([16**0.75 / 1.0, 1.0 / 4**0.25]))


def test_half_makes_inputs_and_weights_equally_large_in_each_channel():
    edge, X = edges()[0]
    found = SmoothQuant(0.5).fit(edge, statistics(SmoothQuant(), X), Key())
    inputs = found.online(X).abs().amax(0)
    weights = torch.stack([found.consumer(W, None)[0].abs().amax(0) for W in edge.weights]).amax(0)
    alive = (X.abs().amax(0) > 0) & (edge.weight_absmax() > 0)
    torch.testing.assert_close(inputs[alive], weights[alive])


def test_outliers_of_inputs_cost_less_after_it():
    W, X = torch.randn(32, 64), torch.randn(128, 64)
    X[:, 3] *= 60
    edge = Edge("e", (W,), (quantizer("int8 row"),), quantizer("int8 tensor"), "norm", torch.arange(64))
    change = SmoothQuant().fit(edge, {"absmax": X.abs().amax(0)}, Key())
    assert output_loss(edge, X, change) < 0.2 * output_loss(edge, X, Scaled(torch.ones(64)))


def test_edges_between_products_are_left_alone_unless_asked_for():
    edge, X = edges()[1]
    stats = statistics(SmoothQuant(), X)
    assert SmoothQuant().fit(edge, stats, Key()) is None
    assert SmoothQuant(edges="all").fit(edge, stats, Key()) is not None
