"""Both ranges become the geometric mean of what they were."""

import torch

from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.transforms.cross_layer_equalization import CrossLayerEqualization
from lowbit.transforms.transform import Edge


def test_ranges_are_equal_afterwards():
    source, W = torch.randn(8, 5) * torch.logspace(-2, 2, 8)[:, None], torch.randn(6, 8)
    edge = Edge("e", (W,), (quantizer("int8"),), None, "product", torch.arange(8), source)
    change = CrossLayerEqualization().fit(edge, {}, Key())
    before, _ = change.producer(source, None)
    after, _ = change.consumer(W, None)
    torch.testing.assert_close(before.abs().amax(1), after.abs().amax(0))
    torch.testing.assert_close(before.abs().amax(1), (source.abs().amax(1) * W.abs().amax(0)).sqrt())


def test_a_norm_has_no_weights_to_even_out():
    edge = Edge("e", (torch.ones(2, 3),), (quantizer("int8"),), None, "norm", torch.arange(3))
    assert CrossLayerEqualization().fit(edge, {}, Key()) is None
