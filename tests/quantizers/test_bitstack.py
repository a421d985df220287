"""BitStack: the error falls with every block, any prefix is a weight, and signs kept apart beat a plain factorization."""

import pytest
import torch

from lowbit.errors import ShapeError
from lowbit.quantizers.bitstack import stack
from lowbit.quantizers.spec import quantizer
from lowbit.quantizers.weight import Weight

W = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))


def error(weight):
    return ((weight.dequantize() - W).square().mean() / W.square().mean()).item()


def test_each_block_lowers_the_error_and_prefixes_are_weights():
    weight = stack(W, 5, rank=2)
    errors = [error(Weight(weight.terms[:k])) for k in range(1, 6)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.05
    assert weight.nbytes == 5 * (64 * 96 // 8 + 2 * 2 * (64 + 96) + 4)  # signs, factors in float16, the rank


def test_signs_apart_beat_the_same_bytes_of_factors():
    U, s, Vt = torch.linalg.svd(W)
    rank = (64 * 96 // 8 + 2 * 2 * (64 + 96)) // (2 * (64 + 96))
    plain = ((U[:, :rank] * s[:rank]) @ Vt[:rank] - W).square().mean() / W.square().mean()
    assert error(stack(W, 1, rank=2)) < 0.7 * plain.item()


def test_a_rank_that_does_not_fit_is_named():
    with pytest.raises(ShapeError, match="1 blocks of rank 65 for shape"):
        stack(W, 1, rank=65)


def test_weighed_inputs_have_less_error():
    """The output error falls where inputs differ, as against the same bytes without scaling."""
    size = torch.exp2(torch.linspace(-4, 4, 96))
    X = torch.randn(500, 96, generator=torch.Generator().manual_seed(1)) * size

    def output_error(s):
        return ((stack(W, 2, rank=2, s=s).dequantize() - W) @ X.T).square().sum()

    assert output_error(size) < 0.8 * output_error(None)


def test_factors_may_be_quantized():
    weight = stack(W, 3, rank=4, quantizer=quantizer("int8 row"))
    assert error(stack(W, 3, rank=4)) < error(weight) < 1.05 * error(stack(W, 3, rank=4))
    assert weight.nbytes < stack(W, 3, rank=4).nbytes
