"""Dithered rounding is the rounding to nearest of the dithered number."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.formats.integer import int8
from lowbit.philox import Key, noise
from lowbit.rounding.dithered import dithered


def test_it_is_nearest_after_adding_noise():
    words = noise(Key(0), (20_000,))
    y = 100 * (2 * torch.rand(20_000, generator=torch.Generator().manual_seed(0)) - 1)
    want = torch.floor(y.double() + ((words >> 8).double() + 0.5) * 2.0**-24)
    got = int8.decode(int8.encode(y, dithered, words)).double()
    assert torch.equal(got, want)
    with pytest.raises(UnsupportedError, match="needs noise"):
        int8.encode(y, dithered)
