"""BitStack as a solver: bytes as announced, a description that reads back, and less output error where inputs differ."""

import json

import pytest
import torch

from lowbit.errors import DataError
from lowbit.nn.packed import PackedWeight
from lowbit.philox import Key
from lowbit.quantizers.bitstack import stack
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.bitstack import BitStack
from lowbit.solvers.solver import solver

W = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
X = torch.randn(400, 64, generator=torch.Generator().manual_seed(1)) * torch.exp2(torch.linspace(-4, 4, 64))
H = X.double().T @ X.double()


@pytest.mark.parametrize("spec", ["float16", "int8 row"])
def test_bytes_and_description(spec):
    method = BitStack(2, 100)
    weight = method.solve(W, quantizer(spec), {"gram": H}, Key())
    packed = PackedWeight.of(weight)
    assert packed.nbytes == method.nbytes(quantizer(spec), (48, 64))
    again = PackedWeight.described(packed.parts(), (48, 64), json.loads(json.dumps(packed.describe())))
    assert torch.equal(again.dense(), weight.dequantize())


def test_inputs_weigh_and_dead_ones_do_no_harm():
    def error(weight):
        return ((weight.dequantize() - W) @ X.T).square().sum()

    weight = BitStack(2, 4).solve(W, quantizer("float16"), {"gram": H}, Key())
    assert error(weight) < 0.8 * error(stack(W, 2, 4))
    dead = H.clone()
    dead[:, 5] = dead[5] = 0
    for gram in (dead, torch.zeros_like(H)):
        assert bool(torch.isfinite(BitStack(2, 4).solve(W, quantizer("float16"), {"gram": gram}, Key()).dequantize()).all())


def test_bounds():
    with pytest.raises(DataError, match="bitstack:blocks=0:rank=16: both are at least 1"):
        solver("bitstack:blocks=0")
