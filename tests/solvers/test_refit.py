"""Refitted scales are the least-squares solution of numpy, as stored they never lose, and what cannot be refitted is named."""

import numpy as np
import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.quantizers.grid import QTensor
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.refit import check_refittable, refit
from lowbit.solvers.refit import lost as by_row


def numbers(grid, codes):
    """Values of codes less the zero point, by hand."""
    values = torch.tensor(grid.format.values)[codes.long()]
    return values if grid.zero is None else values - grid.zero.repeat_interleave(32, 1)


@pytest.mark.parametrize("spec", ["int3 g32 scale=float32", "int2 g32 asym scale=float32", "e2m1 g32 scale=float32"])
def test_scales_are_those_of_least_squares(problem, spec):
    """Row by row with numpy: the columns are the groups' parts of the outputs."""
    W, H = problem(6, 64)
    q = quantizer(spec).quantize(W)
    found = refit(W, q, H)
    assert torch.equal(found.codes, q.codes)
    root = np.linalg.cholesky(H.numpy()).T
    t = numbers(q.grid, q.codes).double().numpy()
    for row in range(6):
        A = np.stack([root[:, g * 32 : (g + 1) * 32] @ t[row, g * 32 : (g + 1) * 32] for g in range(2)], 1)
        expected = np.linalg.lstsq(A, root @ W[row].double().numpy(), rcond=None)[0]
        np.testing.assert_allclose(found.grid.scale[row].numpy(), expected, rtol=1e-4)


def test_offsets_are_fitted_with_them(problem):
    W, H = problem(6, 64)
    spec = "int2 g32 hqq scale=float32 offset=float32"
    q = quantizer(spec).quantize(W)
    found = refit(W, q, H)
    root = np.linalg.cholesky(H.numpy()).T
    t = numbers(q.grid, q.codes).double().numpy()
    for row in range(6):
        parts = [root[:, g * 32 : (g + 1) * 32] @ t[row, g * 32 : (g + 1) * 32] for g in range(2)]
        ones = [root[:, g * 32 : (g + 1) * 32].sum(1) for g in range(2)]
        expected = np.linalg.lstsq(np.stack(parts + ones, 1), root @ W[row].double().numpy(), rcond=None)[0]
        offset = found.grid.offset if isinstance(found.grid.offset, torch.Tensor) else found.grid.offset.dequantize()
        np.testing.assert_allclose(found.grid.scale[row].numpy(), expected[:2], rtol=1e-3)
        np.testing.assert_allclose(offset[row].numpy(), expected[2:], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("spec", ["int2 g32", "int3 g16", "int4 row", "nvfp4", "mxfp4 even", "int2 g32 asym", "int2 g32 hqq"])
def test_no_row_loses_more_for_scales_as_they_are_stored(problem, spec):
    W, H = problem()
    q = quantizer(spec).quantize(W)
    found = refit(W, q, H)
    before, after = by_row(W, q.dequantize(), H), by_row(W, found.dequantize(), H)
    assert bool((after <= before * (1 + 1e-12)).all())
    assert spec == "mxfp4 even" or float(after.sum()) < float(before.sum()), "a power of two need not have a better neighbour"
    again = quantizer(spec).unpack(found.packed(), tuple(W.shape))
    assert torch.equal(again.dequantize(), found.dequantize())


def test_rows_of_zeros_and_inputs_that_are_always_zero(problem):
    W, H = problem()
    W[3] = 0
    W[4, :32] = 0
    H[5], H[:, 5] = 0, 0
    found = refit(W, quantizer("int3 g32").quantize(W), H).dequantize()
    assert bool(torch.isfinite(found).all()) and not found[3].any() and not found[4, :32].any()
    nothing = refit(W, quantizer("int3 g32").quantize(W), torch.zeros(64, 64, dtype=torch.float64))
    assert torch.equal(nothing.dequantize(), quantizer("int3 g32").quantize(W).dequantize())


@pytest.mark.parametrize("spec", ["int4 tensor", "int4 8x8", "hif4", "bfloat16"])
def test_what_has_no_scale_a_group_is_refused(spec):
    W = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UnsupportedError, match="scales are refitted where they belong to groups of a row, as in int4 g64"):
        check_refittable(quantizer(spec).grid(W))


def test_loss_by_row(problem):
    W, H = problem(3, 16)
    Q = quantizer("int4 row").quantize(W).dequantize()
    D = (W - Q).double()
    assert torch.allclose(by_row(W, Q, H), torch.stack([d @ H @ d for d in D]))
    assert isinstance(quantizer("int4 row").quantize(W), QTensor)
