"""AdaQuant: weights may move by more than one step, and the layer's output gains."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.adaquant import AdaQuant, Perturbed
from lowbit.solvers.rtn import RTN
from lowbit.solvers.solver import solver


def test_a_perturbation_moves_weights_by_as_many_steps_as_it_asks_for():
    W = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    q = quantizer("int8 g32 scale=float32")
    soft = Perturbed(W, q, RTN().solve(W, q, {}, Key()), AdaQuant(rate=1.0, range_rate=0.0))
    before = W.clone()
    for _ in range(3):
        soft.values()
        soft.move(torch.ones(4, 32), 0.0)
    moved = (soft.hard() - q.quantize(W).dequantize()) / q.grid(W).scale.mean()
    assert float(moved.mean()) == pytest.approx(-3.0, abs=0.3)
    assert torch.equal(W, before)


def test_with_enough_data_it_loses_much_less(toy):
    """Half of what rounding to nearest does, on calls that it has not seen too."""
    held = toy._replace(samples=toy.samples[4:])
    seen = toy._replace(samples=toy.samples[:4])
    found = {n: w.dequantize() for n, w in seen.solved(AdaQuant(steps=300, batch=4)).items()}
    assert seen.lost(found) < 0.5 * seen.lost(toy.nearest())
    assert held.lost(found) < 0.8 * held.lost(toy.nearest())


def test_rates_are_checked():
    with pytest.raises(UnsupportedError, match="the first is above 0, the second not below"):
        solver("adaquant:rate=0")
