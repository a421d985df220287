"""Learned clips: shares of ranges alone are moved, and outliers make them narrower."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.learned_clip import BEGIN, Clipped, LearnedClip
from lowbit.solvers.rtn import RTN
from lowbit.solvers.solver import solver


def test_it_begins_at_the_whole_range_and_gradients_are_those_of_the_logits():
    W = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    q = quantizer("int4 g32 scale=float32")
    soft = Clipped(W, q, RTN().solve(W, q, {}, Key()), 0.1)
    soft.values()
    assert torch.allclose(soft.weight().terms[0].grid.scale, q.grid(W).scale)
    seen = []
    soft.adams[0].step = lambda slope, share=1.0: seen.append(slope)
    direction = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    of_share = soft.learned.gradients(direction, None, lambda piece, of_v: None)[0]
    soft.move(direction, 0.0)
    logits = torch.full((4, 1), BEGIN, requires_grad=True)
    (expected,) = torch.autograd.grad((of_share * torch.sigmoid(logits) / torch.sigmoid(torch.tensor(BEGIN))).sum(), logits)
    assert torch.allclose(seen[0], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("spec", ["int3 g32", "int3 g32 asym", "mxfp4 even"])
def test_weights_are_rounded_to_nearest_on_the_learned_grid(toy, spec):
    found = toy.solved(LearnedClip(), spec)
    for name, W in toy.weights.items():
        assert torch.allclose(found[name].terms[0].grid.choose(W).dequantize(), found[name].dequantize(), atol=1e-6)


def test_blocks_with_an_outlier_become_narrower(toy):
    """One weight in each block of the first layer is four times the size: the range that is kept is the smaller for it."""
    for name in toy.weights:
        toy.weights[name][:, ::32] *= 4
    toy = toy._replace(samples=[s._replace(target=toy.forward(toy.weights, s)) for s in toy.samples])
    found = toy.solved(LearnedClip(steps=100))
    whole = quantizer("int3 g32").grid(toy.weights["first"]).scale.dequantize()
    learned = found["first"].terms[0].grid.scale.dequantize()
    assert float((learned / whole).median()) < 0.9
    assert toy.lost({n: w.dequantize() for n, w in found.items()}) < 0.9 * toy.lost(toy.nearest())


def test_the_rate_is_checked():
    with pytest.raises(UnsupportedError, match="learned_clip:rate=0: the rate is above 0"):
        solver("learned_clip:rate=0")
