"""AdaRound: gates begin where the weights are, decide themselves, and find good roundings on integers and on floats."""

import itertools

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.rounding.stochastic import stochastic
from lowbit.solvers.adaround import AdaRound, Gated, exponent, gate, ungate
from lowbit.solvers.block_solver import Sample
from lowbit.solvers.rtn import RTN
from lowbit.solvers.solver import solver


def layer(rows=24, n=8, seed=0):
    """One linear layer as a block: its weight, its calls, the Gram matrix of all inputs."""
    g = torch.Generator().manual_seed(seed)
    W, mix = torch.randn(rows, n, generator=g), torch.eye(n) + 0.4 * torch.randn(n, n, generator=g)
    X = [torch.randn(1, 50, n, generator=g) @ mix for _ in range(4)]
    samples = [Sample((x,), {}, x @ W.mT) for x in X]
    return W, samples, sum((x[0].double().mT @ x[0].double() for x in X), torch.zeros(n, n, dtype=torch.float64))


def best_of_all(W, H, grid):
    """The least loss of each row over all 2^8 ways to take one of the two neighbours, by brute force, and the sum over the rows."""
    levels = torch.tensor(sorted(set(grid.format.lines[0].values)))
    scale = grid.scale if isinstance(grid.scale, torch.Tensor) else grid.scale.dequantize()
    above = torch.searchsorted(levels, W / scale).clamp(1, len(levels) - 1)
    ups = torch.tensor(list(itertools.product((0, 1), repeat=W.shape[1])))
    D = (levels[above[None] - 1 + ups[:, None]] * scale - W).double()
    return float(((D @ H) * D).sum(2).amin(0).sum())


def lost(W, Q, H):
    return float((((W - Q).double() @ H) * (W - Q).double()).sum())


def solved(value, W, samples, spec):
    q = quantizer(spec)
    start = {"w": value.start.solve(W, q, {}, Key())}
    return value.solve_block({"w": W}, {"w": q}, lambda w, s: s.args[0] @ w["w"].mT, samples, Key(), start)["w"].dequantize()


def test_gates_begin_where_the_weights_are():
    h = torch.linspace(0.02, 0.98, 50)
    assert torch.allclose(gate(ungate(h)), h, atol=1e-5)
    assert float(gate(torch.tensor(10.0))) == 1.0 and float(gate(torch.tensor(-10.0))) == 0.0
    W = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    for spec in ("int4 g32", "nvfp4"):
        for kind in ("plain", "scaled"):
            q = quantizer(spec)
            soft = Gated(W, q, RTN().solve(W, q, {}, Key()), AdaRound(gate=kind))
            inside = (soft.between.place > 0.02) & (soft.between.place < 0.98)
            assert torch.allclose(soft.values()[inside], W[inside], atol=1e-5)
            assert torch.allclose(soft.hard(), q.quantize(W).dequantize(), atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "scaled"])
def test_a_step_is_adams_on_the_penalized_error(kind):
    """The gradient in V of <g, w(V)> + penalty * sum(1 - |2h - 1|^beta) by torch's own autograd."""
    W = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    q = quantizer("nvfp4")
    soft = Gated(W, q, RTN().solve(W, q, {}, Key()), AdaRound(gate=kind, penalty=0.3))
    direction = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    V = soft.V.clone().requires_grad_()
    h = (1.2 * torch.sigmoid(V / soft.unit) - 0.1).clamp(0, 1)
    weight = 0.3 * float((direction * soft.between.gap).abs().mean())
    penalized = (direction * (soft.between.low + h * soft.between.gap)).sum() + weight * (1 - (2 * h - 1).abs() ** exponent(0.5)).sum()
    (expected,) = torch.autograd.grad(penalized, V)
    seen = []
    soft.adam.step = lambda gradient, share=1.0: seen.append(gradient.clone())
    soft.values()
    soft.move(direction.clone(), 0.5)
    assert torch.allclose(seen[0], expected, rtol=1e-3, atol=1e-5)


def test_the_exponent_falls_after_a_time_without_penalty():
    assert exponent(0.0) is None and exponent(0.19) is None
    assert exponent(0.2) == 20.0
    assert exponent(0.6) == pytest.approx(11.0)
    assert exponent(0.999) == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("spec", ["int3 row scale=float32", "e2m1 row scale=float32"])
@pytest.mark.parametrize("seed", range(2))
def test_it_comes_near_the_best_of_all_roundings(seed, spec):
    """It gets at least half of what the best choice between neighbours, found by brute force, gains on rounding to nearest."""
    W, samples, H = layer(seed=seed)
    best = best_of_all(W, H, quantizer(spec).grid(W))
    nearest = lost(W, quantizer(spec).quantize(W).dequantize(), H)
    found = lost(W, solved(AdaRound(steps=500, batch=4), W, samples, spec), H)
    assert 0.999 * best <= found <= best + (nearest - best) / 2


def test_gates_decide_themselves(toy):
    """After enough steps more than 97 of 100 are outside of (0.05, 0.95)."""
    q = quantizer("int3 g32")
    softs = []

    class Watched(AdaRound):
        def soft(self, W, quantizer, start):
            softs.append(super().soft(W, quantizer, start))
            return softs[-1]

    toy.solved(Watched(steps=300))
    undecided = sum(float(((gate(s.adam.parameter) > 0.05) & (gate(s.adam.parameter) < 0.95)).sum()) for s in softs)
    assert undecided / sum(s.V.numel() for s in softs) < 0.03
    assert q.format.bits == 3


def test_stochastic_roundings_lose_more_than_nearest_and_it_less(toy):
    """In the mean of 20 draws a layer loses about twice what rounding to nearest does."""
    nearest = toy.lost(toy.nearest())
    draws = []
    for seed in range(20):
        words = {n: torch.randint(0, 2**32, W.shape, generator=torch.Generator().manual_seed(seed)) for n, W in toy.weights.items()}
        grids = {n: quantizer("int3 g32").grid(W) for n, W in toy.weights.items()}
        draws.append(toy.lost({n: grids[n].choose(W, stochastic, words[n]).dequantize() for n, W in toy.weights.items()}))
    assert 1.5 < sum(draws) / 20 / nearest < 2.5
    assert toy.lost({n: w.dequantize() for n, w in toy.solved(AdaRound(steps=200)).items()}) < 0.8 * nearest


@pytest.mark.parametrize("spec", ["adaround:gate=soft", "adaround:rate=0", "adaround:penalty=-1"])
def test_parameters_are_checked(spec):
    with pytest.raises(UnsupportedError, match="the gate is plain or scaled, the rate above 0, the penalty not below"):
        solver(spec)
