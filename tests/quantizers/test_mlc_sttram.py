"""The sign is kept twice: every float16 number below 2 comes back, also when the copy has flipped."""

import numpy as np
import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.quantizers.mlc_sttram import protect, recover, soft_cells

ALL = torch.from_numpy(np.arange(1 << 16, dtype=np.uint16).view(np.float16).copy())
BELOW = ALL[ALL.abs() < 2]


def test_all_numbers_below_two_come_back():
    words = protect(BELOW)
    assert torch.equal(recover(words).view(torch.int16), BELOW.view(torch.int16))
    assert torch.equal(recover(words ^ 0x4000).view(torch.int16), BELOW.view(torch.int16))  # the copy is not read


def test_the_first_cell_is_never_soft():
    first = protect(BELOW).int() & 0xC000
    assert set(first.unique().tolist()) == {0, 0xC000}
    plain = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).half() / 4
    saved = (soft_cells(plain.view(torch.int16)) - soft_cells(protect(plain))).float().mean()
    assert saved == pytest.approx(0.5, abs=0.02)  # half of the numbers are negative


def test_two_is_refused():
    with pytest.raises(UnsupportedError, match="a magnitude of 2;"):
        protect(torch.tensor([0.5, -2.0]))
