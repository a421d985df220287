"""Sign split: one scale for each sign."""

import pytest
import torch

from lowbit.blocks import Blocks
from lowbit.errors import UnsupportedError
from lowbit.formats.integer import INTEGERS
from lowbit.formats.minifloat import float4_e2m1fn
from lowbit.quantizers.scheme import Scheme
from lowbit.scaling.sign_split import sign_split


def test_worked_example():
    found = sign_split(torch.tensor([[12.0, -3.0, 1.0], [1.0, 2.0, 3.0], [-6.0, 0.0, 0.0]]), float4_e2m1fn)
    assert found.scale.tolist() == [2.0, 0.5, 0.0] and found.negative.tolist() == [0.5, 0.0, 1.0]


def test_each_sign_decodes_with_its_own_scale():
    q = Scheme(float4_e2m1fn, Blocks((0,)), sign_split)
    x = torch.tensor([[12.0, 8.0, -3.0, -0.25, 0.0]])
    assert q.quantize(x).dequantize().tolist() == x.tolist()


def test_a_sign_without_numbers_decodes_to_zero_there():
    q = Scheme(float4_e2m1fn, Blocks((0,)), sign_split)
    assert q.quantize(torch.tensor([[0.0, -1.0]])).dequantize().tolist() == [[0.0, -1.0]]


def test_integers_use_their_whole_range():
    """int4 reaches -8 and 7."""
    found = sign_split(torch.tensor([[14.0, -8.0]]), INTEGERS["int4"])
    assert found.scale.item() == 2.0 and found.negative.item() == 1.0


@pytest.mark.parametrize("name, low, high", [("uint4", 0, 15), ("int1", -1, 0)])
def test_formats_of_one_sign_are_refused(name, low, high):
    with pytest.raises(UnsupportedError, match=f"sign_split needs numbers of both signs, {name} goes from {low} to {high}"):
        sign_split(torch.ones(1, 4), INTEGERS[name])
