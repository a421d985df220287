"""Minmax: the range, widened to hold zero, over all codes; zero is a number of the grid."""

import numpy as np
import pytest
import torch

from lowbit import catalog
from lowbit.errors import UnsupportedError
from lowbit.formats.integer import INTEGERS
from lowbit.formats.minifloat import float4_e2m1fn
from lowbit.scaling.minmax import minmax
from lowbit.testing.scalings import KINDS, blocks_of


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "huge"])
@pytest.mark.parametrize("name", ["uint4", "int4", "uint8", "int3_narrow"])
def test_it_is_the_formula_in_float32(kind, name):
    fmt, blocks = INTEGERS[name], blocks_of(kind)
    x = blocks.numpy()
    low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
    scale = (high - low) / np.float32(fmt.levels - 1)
    found = minmax(blocks, fmt)
    assert np.array_equal(found.scale.numpy(), scale)
    with np.errstate(invalid="ignore", divide="ignore"):
        zero = np.where(scale == 0, 0, np.clip(np.round(np.float32(fmt.min) - low / scale), fmt.min, fmt.max))
    assert np.array_equal(found.zero.numpy(), np.clip(zero, fmt.min, fmt.max))


def test_worked_example():
    """-1 to 2 in 2 bits: steps of 1, zero at code 1."""
    found = minmax(torch.tensor([[-1.0, 0.3, 2.0]]), INTEGERS["uint2"])
    assert found.scale.tolist() == [1.0] and found.zero.tolist() == [1.0]


def test_a_range_beyond_float32_is_halved_first():
    """3e38 - (-3e38) is infinite in float32; the scale is not."""
    found = minmax(torch.tensor([[-3e38, 3e38]]), INTEGERS["uint8"])
    assert found.scale.item() == 2 * (np.float32(3e38) / np.float32(255))


@pytest.mark.parametrize("name", ["float4_e2m1fn", "nf4_element", "ternary_element", "q1.6"])
def test_other_formats_are_refused(name):
    fmt = catalog.find("format", name)
    if name == "ternary_element":  # -1, 0, 1 are consecutive integers
        assert minmax(torch.tensor([[-1.0, 3.0]]), fmt).scale.tolist() == [2.0]
        return
    with pytest.raises(UnsupportedError, match=f"minmax needs a format of consecutive integers, {fmt.name} is none; use absmax, or uint4"):
        minmax(torch.ones(1, 4), fmt)
    assert float4_e2m1fn.max == 6.0
