"""Neighbours enclose a weight, and a start is gone on from where it is."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.gptq import GPTQ
from lowbit.solvers.neighbours import Between, grid_of, neighbours, order, stored
from lowbit.solvers.rex import REx
from lowbit.solvers.rtn import RTN


def weight(rows=12, seed=0):
    return torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spec", ["int4 g32", "int2 g32", "uint4 g32 asym", "nvfp4", "mxfp4 even", "nf4", "int3 g32 hqq"])
def test_every_number_of_the_grid_lies_outside_of_the_two(spec):
    """Brute force: decode every code for every element; nothing lies strictly between the neighbours, and the weight does."""
    W, q = weight(), quantizer(spec)
    grid = q.grid(W)
    low, high = (grid.dequantize(codes) for codes in neighbours(W, grid))
    every = torch.stack([grid.dequantize(torch.full_like(q.quantize(W).codes, int(c))) for c in order(grid.format, W.device).codes])
    assert not bool(((every > low) & (every < high)).any())
    smallest, largest = every.amin(0), every.amax(0)
    held = W.clamp(smallest, largest)
    assert bool(((low <= held) & (held <= high)).all())
    between = Between.of(W, grid)
    assert torch.allclose(between.low + between.place * between.gap, W, atol=1e-5)


@pytest.mark.parametrize("spec", ["int4 g32", "uint3 g32 asym", "nvfp4", "mxfp4 even"])
@pytest.mark.parametrize("inner", ["rtn", "gptq"])
def test_what_stands_for_a_weight_rounds_to_the_codes_of_the_start(spec, inner):
    W, q = weight(), quantizer(spec)
    X = weight(200, 1)
    start = {"rtn": RTN(), "gptq": GPTQ()}[inner].solve(W, q, {"gram": X.double().mT @ X.double()}, Key())
    stand_in, grid = grid_of(W, q, start)
    assert torch.equal(grid.choose(stand_in).dequantize(), start.dequantize())
    Q = start.dequantize()
    assert bool(((stand_in - Q) * (W - Q) >= -1e-6).all()), "it lies on the weight's side"
    closer = (stand_in - Q).abs() <= (W - Q).abs() + 1e-6
    assert bool(closer.all())
    assert torch.equal(stand_in, W) == (inner == "rtn")


def test_a_sum_of_tensors_is_no_start():
    W, q = weight(), quantizer("int4 g32")
    with pytest.raises(UnsupportedError, match="a start of 2 terms cannot be gone on from"):
        grid_of(W, q, REx().solve(W, q, {}, Key()))


@pytest.mark.parametrize("spec", ["int4 g32", "hif4", "nvfp4"])
def test_stored_numbers_are_kept_bit_for_bit(spec):
    W, q = weight(), quantizer(spec)
    tensor = q.quantize(W)
    assert torch.equal(stored(tensor.dequantize(), tensor.grid, q, W).terms[0].codes, tensor.codes)
