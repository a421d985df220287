"""Halvings round to nearest in the exponent."""

import math

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.formats.power_steps import from_name, halvings, halvings15
from lowbit.rounding.ieee754 import up


def test_nearest_is_in_the_exponent_and_up_never_falls_short():
    y = torch.logspace(-4.4, 0, 500, dtype=torch.float64)
    n = halvings15.encode(y)
    assert n.tolist() == [min(14, round(-math.log2(v))) for v in y.tolist()]
    raised = halvings15.decode(halvings15.encode(y, up))
    assert bool((raised >= y).all()) and bool((raised < 2 * y.clamp(min=2.0**-14)).all())
    with pytest.raises(UnsupportedError, match="halvings1: 2 to 120"):
        halvings(1)


def test_room_for_more_numbers_changes_the_width_alone():
    y = torch.logspace(-4.4, 0, 500)
    wide, narrow = halvings(4, 8), halvings(4)
    assert (wide.bits, narrow.bits, wide.levels) == (3, 2, 4) and from_name("halvings4of8") == wide
    assert torch.equal(wide.encode(y), narrow.encode(y))
    with pytest.raises(UnsupportedError, match="halvings4of3: 2 to 120 numbers, and room for all of them"):
        halvings(4, 3)
