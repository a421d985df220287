"""MSE: the candidates are shares of the absmax scale, and the one kept has the least squared error."""

import pytest
import torch

from lowbit.blocks import Blocks
from lowbit.errors import UnsupportedError
from lowbit.formats.integer import int4
from lowbit.formats.minifloat import float4_e2m1fn
from lowbit.quantizers.scheme import Scheme
from lowbit.scaling.absmax import absmax
from lowbit.scaling.mse import MSE, mse
from lowbit.testing.quantizers import sample


def test_the_candidates():
    found = MSE(0.5, 3)(torch.tensor([[7.0, -3.0]]), int4)
    assert [a.scale.item() for a in found] == [1.0, 0.75, 0.5]
    assert len(mse(torch.ones(1, 4), int4)) == 29


def test_the_kept_candidate_is_the_best_of_all():
    """Block by block no single share does better, and the whole is better than absmax."""
    x = sample((32, 64))
    best = Scheme(int4, Blocks((32,)), mse)
    chosen = (best.quantize(x).dequantize() - x).square().reshape(32, 2, 32).sum(-1)
    first = absmax(x.reshape(32, 2, 32), int4).scale
    for share in torch.linspace(1.0, 0.3, 29, dtype=torch.float64).tolist():
        scale = (first * share).unsqueeze(-1)
        y = (x.reshape(32, 2, 32) / scale).round().clamp(-8, 7) * scale
        assert bool((chosen <= (y - x.reshape(32, 2, 32)).square().sum(-1) + 1e-4).all())
    plain = (Scheme(int4, Blocks((32,)), absmax).quantize(x).dequantize() - x).square().sum()
    assert chosen.sum() < 0.9 * plain


def test_importance_moves_the_choice():
    """With all the weight on the outlier its error is zero under the first share, absmax; without it clipping wins."""
    x = torch.tensor([[10.0, *([0.4] * 31)]])
    q = Scheme(float4_e2m1fn, Blocks((32,)), mse)
    on_outlier = torch.tensor([[1.0, *([0.0] * 31)]])
    assert q.grid(x, importance=on_outlier).scale.item() == pytest.approx(10 / 6)
    assert q.grid(x, importance=1 - on_outlier).scale.item() < 10 / 6


@pytest.mark.parametrize("lowest, steps", [(0.0, 29), (1.0, 29), (0.5, 1)])
def test_parameters_are_checked(lowest, steps):
    with pytest.raises(
        UnsupportedError, match=r"the lowest share is in \(0, 1\), the highest in \[1, 16\], and at least 2 steps are taken"
    ):
        MSE(lowest, steps)


def test_text():
    assert str(mse) == "mse" and str(MSE(0.5, 10)) == "mse:0.5:10" and str(MSE(steps=10)) == "mse:steps=10"
