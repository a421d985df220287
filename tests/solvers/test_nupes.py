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


def test_the_slope_is_a_difference_with_the_codes_held(W, H):
    trial = _trial(W, quantizer(SPEC), H)
    scale = W.abs().amax(1, keepdim=True).double()

    def at(a):
        integers = torch.where(trial.q.codes > 7, trial.q.codes.double() - 16, trial.q.codes.double())
        return lost(integers.sign() * (integers.abs() / 7) ** (1 / a) * scale, W, H)

    assert at(0.7) == pytest.approx(trial.lost, rel=1e-5)
    assert (at(0.7001) - at(0.6999)) / 0.0002 == pytest.approx(trial.slope, rel=1e-4)


@pytest.mark.parametrize("spec", [SPEC, "nupes4", "nupes3", "power4_1 row"])
def test_a_learned_exponent_loses_least(W, H, spec):
    q = quantizer(spec)
    found = NUPES().solve(W, q, {"gram": H}, Key())
    options = q.options if isinstance(q, Best) else (q,)
    tried = [lost(RTN().solve(W, o, {}, Key()).dequantize(), W, H) for o in options]
    assert lost(found.dequantize(), W, H) < min(tried)
    assert found.nbytes == NUPES().nbytes(q, (16, 64))


def test_the_exponent_found_is_near_the_best_of_a_fine_search(W, H):
    found = NUPES().solve(W, quantizer("nupes4"), {"gram": H}, Key())
    fine = min(lost(quantizer(f"power4_{a / 1000:g} row").quantize(W).dequantize(), W, H) for a in range(200, 1001, 4))
    assert lost(found.dequantize(), W, H) < 1.1 * fine


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
