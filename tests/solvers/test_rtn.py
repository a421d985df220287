"""RTN is the quantizer and nothing else; its noise depends on seed and tensor name only."""

import pytest
import torch

import lowbit
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.rtn import RTN


@pytest.fixture
def W():
    return torch.randn(16, 64, generator=torch.Generator().manual_seed(0))


def solved(W, spec, key=None):
    return RTN().solve(W, quantizer(spec), {}, key or Key())


@pytest.mark.parametrize("spec", ["nvfp4", "mxfp4 even", "int4 g32 asym", "nf4", "ternary", "fp8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_the_quantizer(W, spec, dtype):
    W = W.to(dtype)
    weight = solved(W, spec)
    assert torch.equal(weight.dequantize(), lowbit.fake_quantize(W.float(), spec))
    assert weight.quantizers == (quantizer(spec),)
    assert weight.nbytes == quantizer(spec).nbytes((16, 64))


def test_no_code_is_nearer_than_the_one_taken(W):
    """Rounding to nearest, by trying every code of int4 under the scale that was stored."""
    weight = solved(W, "int4 g32")
    (tensor,) = weight.terms
    scale = tensor.grid.scale.dequantize().repeat_interleave(32, 1)
    tried = torch.stack([(scale * v - W).abs() for v in range(-8, 8)])
    assert torch.equal((weight.dequantize() - W).abs(), tried.amin(0))


def test_stochastic_rounding_draws_from_seed_and_name(W):
    spec = "int4 g32 round=stochastic"
    first = solved(W, spec, Key(1, "a")).dequantize()
    assert torch.equal(solved(W, spec, Key(1, "a")).dequantize(), first)
    assert not torch.equal(solved(W, spec, Key(2, "a")).dequantize(), first)
    assert not torch.equal(solved(W, spec, Key(1, "b")).dequantize(), first)


def test_stochastic_rounding_is_right_on_average(W):
    spec = "int4 g32 round=stochastic"
    mean = torch.stack([solved(W, spec, Key(seed, "a")).dequantize() for seed in range(400)]).mean(0)
    step = quantizer("int4 g32").quantize(W).grid.scale.dequantize().repeat_interleave(32, 1)
    inside = W.abs() < 6.9 * step  # the largest may saturate, whatever is drawn
    assert ((mean - W).abs() / step)[inside].max() < 6 * 0.5 / 400**0.5  # six standard errors of a fair coin


def test_the_noise_does_not_depend_on_what_is_solved_beside_it(W):
    model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Linear(16, 64))
    model[0].weight.data = W.clone()
    alone = lowbit.quantize(torch.nn.Sequential(model[0]), "int4 g32 round=stochastic", seed=3)[0].weight.dense()
    assert torch.equal(solved(W, "int4 g32 round=stochastic", Key(3, "0")).dequantize(), alone)
