"""The loop keeps the best it has seen, shows every sequence as often as the others, and its Adam is torch's."""

import pytest
import torch

from lowbit.errors import NonFiniteError
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.quantizers.weight import Weight
from lowbit.solvers.reconstruction import Adam, Reconstruction, Soft, _orders, error
from lowbit.solvers.signround import SignRound


def test_every_round_is_a_permutation():
    drawn = _orders(Key(3, "x"), 7, 30)
    assert len(drawn) == 30
    for first in range(0, 28, 7):
        assert sorted(drawn[first : first + 7]) == list(range(7))
    assert drawn[:7] != drawn[7:14] and drawn != _orders(Key(4, "x"), 7, 30)


def test_the_error_is_summed_over_channels_and_averaged_over_places():
    out, target = torch.zeros(2, 3, 5), torch.full((2, 3, 5), 2.0)
    assert float(error(out, target)) == 20.0


@pytest.mark.parametrize("rate", [0.1, 0.003])
def test_adam_is_that_of_torch(rate):
    g = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(50, generator=g), None
    theirs = torch.nn.Parameter(ours.clone())
    adam, oracle = Adam(ours, rate), torch.optim.Adam([theirs], lr=rate, eps=1e-12)
    for _ in range(20):
        gradient = torch.randn(50, generator=g)
        adam.step(gradient)
        theirs.grad = gradient.clone()
        oracle.step()
    assert torch.allclose(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


class Walking(Soft):
    """Goes through given weights, whatever the gradient."""

    def __init__(self, stations):
        self.stations, self.at = stations, torch.zeros(1)
        self.parameters = (self.at,)
        self.seen = []

    def values(self):
        return self.stations[int(self.at)]

    def move(self, gradient, progress):
        self.seen.append((gradient.clone(), progress))
        self.at += 1

    def hard(self):
        return self.values()

    def weight(self):
        return Weight((quantizer("int8").quantize(self.values()),), (quantizer("int8"),))


class Walk(Reconstruction):
    """Along stations that a test names."""

    stations: dict[str, list[torch.Tensor]]

    def soft(self, W, quantizer, start):
        return Walking(self.stations["first"] if W.shape[0] == 96 else self.stations["second"])


def walk(toy, factors, **options):
    solver = Walk(steps=len(factors) - 1, **options)
    object.__setattr__(solver, "stations", {name: [f * W for f in factors] for name, W in toy.weights.items()})
    return solver


@pytest.mark.parametrize("best", [0, 2, 3, 4])
def test_the_best_of_those_looked_at_is_kept(toy, best):
    """Looked at after 0, 1/2, 3/4 and all of 4 steps; step 1 is never looked at."""
    factors = [2.0, 1.0, 3.0, 4.0, 5.0]
    factors[best] = 1.1
    found = toy.solved(walk(toy, factors))
    expected = quantizer("int8").quantize(1.1 * toy.weights["first"]).dequantize()
    assert torch.equal(found["first"].dequantize(), expected)


def test_the_gradient_is_that_of_the_sum_over_the_batch(toy):
    solver = walk(toy, [1.5, 1.4], batch=3)
    softs = []
    make = solver.soft
    object.__setattr__(solver, "soft", lambda *a: softs.append(make(*a)) or softs[-1])
    toy.solved(solver)
    weights = {k: (1.5 * w).requires_grad_() for k, w in toy.weights.items()}
    drawn = _orders(Key(0, "toy"), 6, 3)
    total = sum(error(toy.forward(weights, toy.samples[i]), toy.samples[i].target) for i in drawn)
    expected = torch.autograd.grad(total, list(weights.values()))
    for soft, gradient in zip(softs, expected, strict=True):
        assert torch.allclose(soft.seen[0][0], gradient, rtol=1e-4, atol=1e-6)
        assert soft.seen[0][1] == 0.0


def test_a_block_that_never_gives_numbers_is_named_as_such(toy):
    with pytest.raises(NonFiniteError, match="the output of the block is not finite at any step"):
        toy.solved(walk(toy, [float("inf"), float("nan")]))


def test_a_block_may_leave_a_weight_out(toy):
    """Its gradient is zero then, and it stays as it was rounded."""
    toy.weights["unused"] = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    found = toy.solved(SignRound(steps=5))
    assert torch.equal(found["unused"].dequantize(), toy.nearest()["unused"])
