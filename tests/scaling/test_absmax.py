"""Absmax: the largest magnitude over the largest number, one float32 division, on every kind of block."""

import math

import numpy as np
import pytest
import torch

from lowbit import catalog
from lowbit.errors import UnsupportedError
from lowbit.formats.integer import int4
from lowbit.formats.minifloat import float4_e2m1fn
from lowbit.formats.table import TableFormat
from lowbit.scaling.absmax import Absmax, absmax
from lowbit.testing.scalings import KINDS, blocks_of


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["float4_e2m1fn", "int4", "uint8", "float8_e4m3fn"])
def test_it_is_one_float32_division(kind, name):
    fmt, blocks = catalog.find("format", name), blocks_of(kind)
    want = np.abs(blocks.numpy()).max(-1) / np.float32(fmt.top)
    assert np.array_equal(absmax(blocks, fmt).scale.numpy(), want)


def test_the_largest_number_can_be_chosen():
    blocks = torch.tensor([[-15.0, 3.0]])
    assert absmax(blocks, int4).scale.item() == np.float32(15) / np.float32(7)
    assert Absmax(7.5)(blocks, int4).scale.item() == 2.0


def test_alternative_tables_give_one_candidate_each():
    fmt = TableFormat("two", (-1.0, 0.0, 1.0, 2.0), alternatives=((-5.0, 0.0, 1.0, 4.0),))
    first, second = absmax(torch.tensor([[10.0, -1.0], [0.0, 0.0]]), fmt)
    assert first.scale.tolist() == [5.0, 0.0] and second.scale.tolist() == [2.0, 0.0]
    assert first.table.tolist() == [0, 0] and second.table.tolist() == [1, 1]


def test_a_scale_that_float32_cannot_hold_is_the_largest_one():
    half = TableFormat("half", (-0.5, 0.0, 0.25, 0.5))
    assert absmax(torch.tensor([[3e38]]), half).scale.item() == torch.finfo(torch.float32).max


def test_blocks_without_elements():
    assert absmax(torch.zeros(3, 0), float4_e2m1fn).scale.tolist() == [0.0] * 3


def test_text():
    assert str(absmax) == "absmax" and str(Absmax(7.5)) == "absmax:7.5"


@pytest.mark.parametrize("top", [0.0, -7.0, math.nan, math.inf, 1e-45])
def test_other_numbers_are_refused(top):
    with pytest.raises(
        UnsupportedError, match=f"absmax:{top:g}: the number that the largest magnitude is mapped to is positive, 7 for instance"
    ):
        Absmax(top)
