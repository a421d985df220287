"""LLM-FP4's search: never worse for the output than the error of the weight alone, the same where inputs are white, and exact by trial."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.best import BestTensor
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.llm_fp4 import LLMFP4
from lowbit.solvers.rtn import RTN
from lowbit.solvers.solver import solver

SPEC = "best(e2m1 row mse:0.4:30:1.2;e1m2f row mse:0.4:30:1.2;e3m0f row mse:0.4:30:1.2)"


@pytest.fixture
def W():
    return torch.randn(24, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def X():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(500, 64, generator=generator) @ torch.randn(64, 64, generator=generator) * torch.logspace(0, -2, 64)


def lost(weight, W, X):
    return ((weight.dequantize() - W).double() @ X.double().T).square().sum(1)


def test_outputs_lose_less(W, X):
    stats = {"gram": X.double().T @ X.double()}
    for spec in (SPEC, "hq_dit", "e2m1 row mse"):
        found = LLMFP4().solve(W, quantizer(spec), stats, Key())
        plain = RTN().solve(W, quantizer(spec), {}, Key())
        assert lost(found, W, X).sum() < 0.97 * lost(plain, W, X).sum()
        assert found.nbytes == plain.nbytes


def test_each_row_has_the_best_of_all_ranges(W, X):
    """By trying every share of the range as a plain absmax scale, with a loss that is summed sample by sample."""
    found = LLMFP4().solve(W, quantizer("e2m1 row mse:0.4:30:1.2 scale=float32"), {"gram": X.double().T @ X.double()}, Key())
    shares = torch.linspace(1.2, 0.4, 30, dtype=torch.float64)
    tried = []
    for share in shares:
        scale = (W.abs().amax(1, keepdim=True) / 6) * float(share)
        line = torch.tensor([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6])
        q = line[((W / scale).unsqueeze(-1) - line).abs().argmin(-1)] * scale
        tried.append(((q - W).double() @ X.double().T).square().sum(1))
    assert torch.allclose(lost(found, W, X), torch.stack(tried).amin(0), rtol=1e-6)


def test_white_inputs_give_the_error_of_the_weight(W):
    for spec in ("e2m1 row mse", SPEC):
        found = LLMFP4().solve(W, quantizer(spec), {"gram": torch.eye(64, dtype=torch.float64)}, Key())
        (term,) = found.terms
        plain = quantizer(spec).quantize(W)
        assert torch.equal(term.codes, plain.codes) and torch.equal(found.dequantize(), plain.dequantize())
        assert not isinstance(term, BestTensor) or term.choice == plain.choice


def test_it_packs_and_unpacks(W, X):
    q = quantizer(SPEC)
    (term,) = LLMFP4().solve(W, q, {"gram": X.double().T @ X.double()}, Key()).terms
    assert torch.equal(q.unpack(term.packed(), (24, 64)).dequantize(), term.dequantize())


@pytest.mark.parametrize("spec, message", [("int4 g32 mse", "whole rows"), ("nvfp4", "whole rows"), ("e2m1 row", "offers one")])
def test_what_it_refuses(W, spec, message):
    with pytest.raises(UnsupportedError, match=message):
        solver("llm_fp4").solve(W, quantizer(spec), {"gram": torch.eye(64, dtype=torch.float64)}, Key())
