"""NF4: the quantiles of a normal variable that the paper defines, and the rounding of every hard point."""

import numpy as np
import torch
from scipy.stats import norm

from lowbit.formats.normal_float import nf4
from lowbit.testing.exact import ExactFormat


def test_the_numbers_are_quantiles_of_a_normal_variable():
    """Section 3: 2**(k-1) quantiles of the negative side, 2**(k-1) + 1 of the positive, one zero removed, divided by the largest."""
    offset = (1 - 1 / 32 + 1 - 1 / 30) / 2
    positive = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    want = np.sort(np.concatenate([negative, [0.0], positive])) / positive.max()
    assert np.allclose(nf4.values, want, atol=3e-7)


def test_the_ends_and_zero_are_exact():
    assert nf4.values[0] == -1.0 and nf4.values[7] == 0.0 and nf4.values[15] == 1.0
    assert all(v == float(np.float32(v)) for v in nf4.values)


def test_every_midpoint_and_its_neighbours():
    values = np.array(nf4.values)
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    y = np.concatenate([middle, np.nextafter(middle, np.float32(2)), np.nextafter(middle, np.float32(-2)), [-9.0, 9.0]]).astype(np.float32)
    line = ExactFormat(nf4.values)
    assert nf4.encode(torch.from_numpy(y)).tolist() == [line.encode(float(v)) for v in y]
