"""Shift and scale: what each is for, as the paper says."""

import torch

from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.transforms.loss import output_loss
from lowbit.transforms.outlier_suppression_plus import OutlierSuppressionPlus
from lowbit.transforms.smoothquant import SmoothQuant
from lowbit.transforms.transform import Edge, Scaled


def asymmetric():
    """Three channels lie 20 beside zero, and one is wide."""
    draw = torch.Generator().manual_seed(0)
    X, W = torch.randn(512, 64, generator=draw), torch.randn(32, 64, generator=draw)
    X[:, :3] += 20
    X[:, 9] *= 12
    return Edge("e", (W,), (quantizer("int8 row"),), quantizer("int6 tensor"), "norm", torch.arange(64)), X


def fitted(method, edge, X):
    extremes = torch.stack((X.amin(0), X.amax(0)))
    return method.fit(edge, {"extremes": extremes, "rows": X[::4], "absmax": X.abs().amax(0)}, Key())


def test_the_shift_is_the_centre_and_only_wide_channels_are_shrunk():
    edge, X = asymmetric()
    change = fitted(OutlierSuppressionPlus(), edge, X)
    torch.testing.assert_close(change.shift, (X.amin(0) + X.amax(0)) / 2)
    reach = (X - change.shift).abs().amax(0)
    assert float(change.scale[9]) > 2
    assert bool((change.scale >= 1).all())
    shrunk = change.scale > 1
    after = reach / change.scale
    torch.testing.assert_close(after[shrunk], after[shrunk].max().expand(int(shrunk.sum())))


def test_shift_and_scale_beat_either_alone_and_smoothing():
    edge, X = asymmetric()
    both = output_loss(edge, X, fitted(OutlierSuppressionPlus(), edge, X))
    scale = output_loss(edge, X, fitted(OutlierSuppressionPlus(shift=False), edge, X))
    smooth = output_loss(edge, X, fitted(SmoothQuant(), edge, X))
    shift = output_loss(edge, X, Scaled(torch.ones(64), (X.amin(0) + X.amax(0)) / 2))
    none = output_loss(edge, X, Scaled(torch.ones(64)))
    assert both < min(scale, shift, smooth, none)


def test_where_nothing_helps_the_edge_stays_as_it_is():
    edge = Edge("e", (torch.randn(4, 64),), (quantizer("int8 row"),))
    X = torch.randn(64, 64)
    assert fitted(OutlierSuppressionPlus(shift=False), edge, X * 0) is None
