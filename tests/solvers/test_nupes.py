"""NUPES: the derivative by differences, a learned exponent that is no worse than any that was tried, and what is refused."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.formats.nupes import power
from lowbit.philox import Key
from lowbit.quantizers.best import Best
from lowbit.quantizers.spec import quantizer, text
from lowbit.solvers.nupes import NUPES, _trial
from lowbit.solvers.rtn import RTN
from lowbit.solvers.solver import solver

SPEC = "power4_0.7 row scale=float32"


@pytest.fixture
def W():
    return torch.randn(16, 64, generator=torch.Generator().manual_seed(0)) ** 3


@pytest.fixture
def H():
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(500, 64, generator=generator).double() @ torch.randn(64, 64, generator=generator).double()
    return X.T @ X


def lost(dense, W, H):
    error = (dense - W).double()
    return float(((error @ H) * error).sum())


def test_the_slope_is_a_difference_with_the_rounding_held(W, H):
    trial = _trial(W, quantizer(SPEC), H)
    scale = W.abs().amax(1, keepdim=True).double()
    integers = torch.where(trial.q.codes > 7, trial.q.codes.double() - 16, trial.q.codes.double())
    share, power = integers.abs() / 7, (W.double().abs() / scale)

    def at(a):
        moved = power**a + (share - power**0.7)
        return lost(torch.where(share > 0, integers.sign() * moved ** (1 / a) * scale, 0.0), W, H)

    assert at(0.7) == pytest.approx(trial.lost, rel=1e-5)
    assert (at(0.70001) - at(0.69999)) / 0.00002 == pytest.approx(trial.slope, rel=1e-3)


@pytest.mark.parametrize("spec", [SPEC, "nupes4", "nupes3", "power4_1 row"])
def test_a_learned_exponent_loses_no_more_than_those_it_begins_with(W, H, spec):
    q = quantizer(spec)
    found = NUPES().solve(W, q, {"gram": H}, Key())
    options = q.options if isinstance(q, Best) else (q,)
    tried = [lost(RTN().solve(W, o, {}, Key()).dequantize(), W, H) for o in options]
    assert lost(found.dequantize(), W, H) <= min(tried) * (1 if isinstance(q, Best) else 0.9) + 1e-6
    assert found.nbytes == NUPES().nbytes(q, (16, 64))


def test_descent_from_equal_steps_comes_near_the_best_of_a_fine_search():
    W = torch.randn(256, 256, generator=torch.Generator().manual_seed(5)) ** 3
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(500, 256, generator=generator).double() @ torch.randn(256, 256, generator=generator).double()
    H = X.T @ X
    found = NUPES(steps=25, step=0.1).solve(W, quantizer("power4_1 row"), {"gram": H}, Key())
    fine = [lost(quantizer(f"power4_{a / 100:g} row").quantize(W).dequantize(), W, H) for a in range(40, 101, 4)]
    assert lost(found.dequantize(), W, H) < 1.03 * min(fine) < 0.5 * fine[-1]


def test_the_spec_of_what_was_found_gives_it_back(W, H):
    found = NUPES(steps=3).solve(W, quantizer("nupes4"), {"gram": H}, Key())
    (scheme,) = found.quantizers
    assert quantizer(text(scheme)) == scheme and scheme.format == power(4, scheme.format.exponent)
    assert torch.equal(scheme.quantize(W).dequantize(), found.dequantize())


def test_what_it_refuses(W, H):
    with pytest.raises(UnsupportedError, match="power formats"):
        solver("nupes").solve(W, quantizer("int4 g32"), {"gram": H}, Key())
    with pytest.raises(UnsupportedError, match="steps=0"):
        solver("nupes:steps=0")
