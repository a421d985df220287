"""The two candidates, and what is refused."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.formats.integer import int4
from lowbit.formats.minifloat import float4_e2m1fn
from lowbit.quantizers.spec import quantizer, text
from lowbit.scaling.four_over_six import FourOverSix, four_over_six


def test_candidates_map_the_maximum_to_six_and_four():
    found = four_over_six(torch.tensor([[0.0, -12.0, 3.0]]), float4_e2m1fn)
    assert [a.scale.item() for a in found] == [2.0, 3.0]
    assert [a.scale.item() for a in FourOverSix(7.0, 5.0)(torch.tensor([[35.0]]), int4)] == [5.0, 7.0]


def test_what_does_not_fit_is_named():
    with pytest.raises(UnsupportedError, match="maps to 6, the largest number of float4 is 1"):
        four_over_six(torch.ones(1, 2), type(float4_e2m1fn)("float4", (0.0, 1.0)))
    with pytest.raises(UnsupportedError, match="four_over_six:4:6"):
        FourOverSix(4.0, 6.0)


def test_it_prints_and_parses():
    assert text(quantizer("int4 g32 four_over_six:7:5")) == "int4 g32 four_over_six:7:5"
