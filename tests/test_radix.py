"""Mixed radix: five trits in a byte, two of eleven levels in seven bits, and any other number of levels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowbit.errors import CheckpointError, ShapeError
from lowbit.packing import pack
from lowbit.radix import Radix, pack_radix, radix, radix_nbytes, unpack_radix


@given(st.integers(2, 300), st.lists(st.integers(0, 10**6), max_size=60))
def test_codes_come_back(levels, numbers):
    codes = torch.tensor([n % levels for n in numbers], dtype=torch.int32)
    layout = radix(levels)
    data = pack_radix(codes, layout)
    assert data.numel() == radix_nbytes(len(codes), layout)
    assert unpack_radix(data, layout, len(codes)).tolist() == codes.tolist()


def test_known_layouts():
    assert radix(3) == Radix(3, 5, 8) and radix(3).bits_per_code == 1.6
    assert radix(11) == Radix(11, 2, 7) and radix(11).bits_per_code == 3.5
    assert radix(16) == Radix(16, 1, 4) and radix(5, 3) == Radix(5, 3, 7)


def test_every_pair_of_eleven_levels():
    pairs = torch.cartesian_prod(torch.arange(11), torch.arange(11))
    layout = radix(11)
    assert torch.equal(pack_radix(pairs, layout), pack(pairs[:, 0] + 11 * pairs[:, 1], 7))
    assert torch.equal(unpack_radix(pack_radix(pairs, layout), layout, 242).long(), pairs.flatten())


def test_the_first_trit_is_the_least_significant():
    assert pack_radix(torch.tensor([1, 2, 0, 0, 2, 1]), radix(3)).tolist() == [1 + 2 * 3 + 2 * 81, 1]


def test_errors_name_the_value():
    with pytest.raises(ShapeError, match="codes from 0 to 3 are not all in 0..2"):
        pack_radix(torch.tensor([0, 3]), radix(3))
    with pytest.raises(CheckpointError, match="a word of 250; 5 digits of 3 levels stay below 243"):
        unpack_radix(torch.tensor([250], dtype=torch.uint8), radix(3), 5)
    with pytest.raises(ShapeError, match="11 codes of 3 levels do not fit"):
        radix(3, 11)
    with pytest.raises(ShapeError, match="at least 2"):
        radix(1)
