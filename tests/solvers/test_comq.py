"""COMQ against its definition in a slow loop, against brute force, and what its sweeps promise."""

import itertools

import pytest
import torch

from lowbit.errors import DataError, ShapeError, UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.comq import COMQ
from lowbit.solvers.gptq import GPTQ
from lowbit.solvers.qep import QEP
from lowbit.solvers.rtn import RTN
from lowbit.solvers.solver import solver, text


def slow(W, H, scale, sweeps, low, high):
    """Alg. 1 in float64, weight by weight, from the residual of the outputs."""
    W, H = W.double(), H.double()
    Q = W.clone()
    losses = []
    for _ in range(sweeps):
        for j in range(W.shape[1]):
            rest = (W - Q) @ H[:, j] - (W - Q)[:, j] * H[j, j]
            Q[:, j] = ((W[:, j] + rest / H[j, j]) / scale).round().clamp(low, high) * scale
        losses.append(float((((W - Q) @ H) * (W - Q)).sum()))
    return Q, losses


def test_it_is_the_slow_loop(problem):
    W, H = problem(16, 150)
    q = quantizer("int3 row scale=float32")
    scale = q.grid(W).scale[:, 0].double()
    for sweeps in (1, 3):
        expected, _ = slow(W, H, scale, sweeps, -4, 3)
        found = COMQ(order="none", sweeps=sweeps).solve(W, q, {"gram": H}, Key()).dequantize()
        assert (found.double() - expected).abs().gt(1e-4).float().mean() < 0.005, "numbers near the middle may go either way in float32"


@pytest.mark.parametrize("spec", ["int2 g32", "int4 g32", "nvfp4", "mxfp4 even", "int3 g32 asym", "hif4"])
@pytest.mark.parametrize("options", [{}, {"order": "none"}, {"start": GPTQ()}, {"start": GPTQ(), "refit": True}], ids=str)
def test_sweeps_after_the_first_never_lose(problem, lost, spec, options):
    if options.get("refit") and spec == "hif4":
        with pytest.raises(UnsupportedError, match="scales are refitted where"):
            COMQ(**options).solve(*problem()[:1], quantizer(spec), {"gram": problem()[1]}, Key())
        return
    W, H = problem()
    losses = [lost(W, COMQ(sweeps=k, **options).solve(W, quantizer(spec), {"gram": H}, Key()).dequantize(), H) for k in (1, 2, 3, 4, 6)]
    for before, after in itertools.pairwise(losses):
        assert after <= before * (1 + 1e-4)
    nearest = lost(W, RTN().solve(W, quantizer(spec), {}, Key()).dequantize(), H)
    assert losses[0] < nearest


@pytest.mark.parametrize("spec", ["int2 g32 asym", "int3 g32", "nvfp4"])
def test_it_improves_on_gptq_that_it_starts_from(problem, lost, spec):
    """The codes of GPTQ are no local optimum: by more than 3 of 100, and with refitted scales at 2 bits by more than 15."""
    W, H = problem(32, 128)
    q = quantizer(spec)
    gptq = lost(W, GPTQ().solve(W, q, {"gram": H}, Key()).dequantize(), H)
    assert lost(W, COMQ(start=GPTQ()).solve(W, q, {"gram": H}, Key()).dequantize(), H) < 0.97 * gptq
    if spec.startswith("int2"):
        assert lost(W, COMQ(start=GPTQ(), refit=True).solve(W, q, {"gram": H}, Key()).dequantize(), H) < 0.85 * gptq


@pytest.mark.parametrize("seed", range(5))
def test_it_ends_where_no_single_weight_helps(problem, lost, seed):
    """Brute force: after many sweeps no other code of any one weight loses less; and the best of all 4^6 rows is not far below."""
    W, H = problem(1, 6, seed, tokens=30)
    q = quantizer("int2 row scale=float32")
    found = COMQ(sweeps=20).solve(W, q, {"gram": H}, Key()).dequantize()
    scale, least = float(q.grid(W).scale), lost(W, found, H)
    for j, code in itertools.product(range(6), (-2, -1, 0, 1)):
        other = found.clone()
        other[0, j] = code * scale
        assert lost(W, other, H) >= least * (1 - 1e-5)
    every = min(lost(W, torch.tensor([codes]) * scale, H) for codes in itertools.product((-2.0, -1.0, 0.0, 1.0), repeat=6))
    assert every * 0.999 <= least <= 3 * every


def test_inputs_that_are_always_zero_keep_their_nearest_numbers(problem):
    W, H = problem()
    H[7], H[:, 7] = 0, 0
    q = quantizer("int4 g32")
    found = COMQ().solve(W, q, {"gram": H}, Key()).dequantize()
    assert torch.equal(found[:, 7], q.quantize(W).dequantize()[:, 7])


def test_threads_do_not_matter_and_the_weight_stays(problem):
    W, H = problem(96, 256)
    copy, before, found = W.clone(), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(COMQ(start=GPTQ(), refit=True).solve(W, quantizer("int3 g32"), {"gram": H}, Key()).packed())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])
    assert torch.equal(W, copy)


def test_what_does_not_fit_is_named(problem):
    W, H = problem()
    with pytest.raises(ShapeError, match=r"gram is \(64, 64\), but W has 32 inputs"):
        COMQ().solve(W[:, :32], quantizer("int4 g32"), {"gram": H}, Key())
    with pytest.raises(UnsupportedError, match="comq starts from a solver that needs the Gram matrix at most"):
        COMQ(start=QEP())
    with pytest.raises(UnsupportedError, match="comq rounds single numbers, and .* holds none; take the solver rtn"):
        COMQ(start=solver("rex")).solve(W, quantizer("int4 g32"), {"gram": H}, Key())
    for spec in ("comq:sweeps=0", "comq:order=act"):
        with pytest.raises(DataError, match="at least 1 sweep, in the order size or none"):
            solver(spec)
    assert text(COMQ(start=GPTQ(), refit=True)) == "comq:start=gptq:refit=true"
