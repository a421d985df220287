"""SignRound: how far a weight may travel, and what each part learns."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.rtn import RTN
from lowbit.solvers.signround import Rounded, RoundedInRange, SignRound
from lowbit.solvers.solver import solver


@pytest.mark.parametrize("spec", ["int4 g32 scale=float32", "nvfp4"])
def test_no_weight_leaves_its_neighbours_on_a_fixed_grid(toy, spec):
    found = toy.solved(SignRound(learn="rounding"), spec)
    for name, W in toy.weights.items():
        grid = quantizer(spec).grid(W)
        ranks = [grid.choose(x).dequantize() for x in (W, found[name].dequantize())]
        assert torch.equal(ranks[1], found[name].dequantize()), "on the quantizer's own grid"
        changed = ranks[0] != ranks[1]
        assert 0.005 < float(changed.float().mean()) < 0.6
        between = (W - ranks[0]) * (W - ranks[1]) <= 1e-6  # the weight lies between where it was rounded to and where it is now
        inside = W.abs() < W.abs().amax()
        assert bool((between | ~changed | ~inside).float().mean() > 0.99)


def test_a_parameter_travels_half_at_the_most():
    """The signs of 40 steps of one direction: 1/40 (1 + 39/40 + .. + 1/40) = 41/80."""
    W = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    q = quantizer("int4 g32")
    for kind, rates in ((Rounded, 1 / 40), (RoundedInRange, (1 / 40, 1 / 40))):
        soft = kind(W, W, q.grid(W), q, rates)
        for step in range(40):
            soft.values()
            soft.move(torch.ones(4, 32), step / 40)
        assert float(soft.v.abs().max()) == pytest.approx(41 / 80, rel=1e-5)
        assert float(soft.v.max()) <= 0


def test_ranges_alone_keep_rounding_to_nearest(toy):
    found = toy.solved(SignRound(learn="ranges"))
    for name, W in toy.weights.items():
        grid = found[name].terms[0].grid
        assert torch.allclose(grid.choose(W).dequantize(), found[name].dequantize(), atol=1e-6)
        assert not torch.equal(grid.scale.dequantize(), quantizer("int3 g32").grid(W).scale.dequantize())
        assert bool((grid.scale.dequantize() <= quantizer("int3 g32").grid(W).scale.dequantize()).all())


def test_both_are_better_than_either_at_3_bits(toy):
    found = {}
    for learn in ("both", "rounding", "ranges"):
        weights = toy.solved(SignRound(learn=learn, steps=100))
        found[learn] = toy.lost({n: w.dequantize() for n, w in weights.items()})
    assert found["both"] < found["rounding"] and found["both"] < found["ranges"]


def test_a_start_is_never_made_worse(toy):
    """Even with steps that are far too long."""
    found = toy.solved(SignRound(rate=50.0, range_rate=20.0, checks=6))
    start = {n: RTN().solve(W, quantizer("int3 g32"), {}, Key()).dequantize() for n, W in toy.weights.items()}
    assert toy.lost({n: w.dequantize() for n, w in found.items()}) <= toy.lost(start)


@pytest.mark.parametrize("spec", ["signround:learn=all", "signround:rate=0", "signround:range_rate=-1"])
def test_parameters_are_checked(spec):
    with pytest.raises(UnsupportedError, match="learn is both, rounding or ranges, the rates above 0"):
        solver(spec)
