"""REx as a solver: the weight is the stack, its bytes are those announced, and what a checkpoint says of it reads back."""

import json

import pytest
import torch

from lowbit.errors import DataError
from lowbit.nn.packed import PackedWeight
from lowbit.philox import Key
from lowbit.quantizers.rex import residuals
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.rex import REx
from lowbit.solvers.solver import solver, text

W = torch.randn(48, 64, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 48).unsqueeze(1)


@pytest.mark.parametrize("spec", ["int3 row", "nvfp4", "nupes4", "ternary_dense"])
@pytest.mark.parametrize("share", [1.0, 0.25, 0.001])
def test_it_is_the_stack_and_comes_back(spec, share):
    method = REx(3, share)
    weight = method.solve(W, quantizer(spec), {}, Key())
    assert torch.equal(weight.dequantize(), residuals(W, [quantizer(spec)] * 3, share).dequantize())
    packed = PackedWeight.of(weight)
    assert packed.nbytes == weight.nbytes == method.nbytes(quantizer(spec), (48, 64))
    again = PackedWeight.described(packed.parts(), (48, 64), json.loads(json.dumps(packed.describe())))
    assert torch.equal(again.dense(), weight.dequantize())


def test_rows_with_the_largest_residual_are_taken():
    weight = REx(2, 0.25).solve(W, quantizer("int3 tensor"), {}, Key())
    rest = (W - weight.terms[0].dequantize()).square().sum(1)
    assert set(weight.terms[1].index.tolist()) == set(rest.argsort(descending=True)[:12].tolist())


def test_spec_strings_and_bounds():
    assert text(solver("rex:share=0.5")) == "rex:share=0.5" and solver("rex") == REx(2, 1.0)
    for bad in ("rex:terms=0", "rex:share=0", "rex:share=1.5"):
        with pytest.raises(DataError, match="at least 1 term, and a share in"):
            solver(bad)
