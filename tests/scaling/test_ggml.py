"""ggml's scale rules on small blocks."""

import torch

from lowbit.formats.ggml import offset_integers
from lowbit.formats.integer import INTEGERS
from lowbit.scaling.ggml import LeastSquares, LeastSquaresOffset, SignedLargest, Spread, signed_largest


def test_the_first_of_equal_magnitudes_gives_the_sign():
    x = torch.tensor([[1.0, -3.0, 3.0], [2.0, 3.0, -3.0], [0.0, 0.0, 0.0], [1.0, torch.nan, 2.0]])
    assert signed_largest(x).tolist()[:3] == [-3.0, 3.0, 0.0] and signed_largest(x)[3].isnan()
    assert SignedLargest()(x[:2], offset_integers(4)).scale.tolist() == [0.375, -0.375]


def test_fits_find_exact_grids():
    q = torch.tensor([[0.0, 1.0, 5.0, 15.0, 7.0, 3.0, 2.0, 9.0]])
    found = LeastSquaresOffset()(0.25 * q - 1.5, INTEGERS["uint4"])
    assert any(torch.allclose(a.scale, torch.tensor([0.25])) and torch.allclose(a.offset, torch.tensor([-1.5])) for a in found)
    signed = LeastSquares()(0.5 * (q - 8), offset_integers(4))
    assert any(torch.allclose(a.scale, torch.tensor([0.5])) for a in signed)
    spread = Spread()(0.25 * q - 1.5, INTEGERS["uint4"])
    assert (spread.scale.item(), spread.offset.item(), spread.inverse.item()) == (0.25, -1.5, 4.0)
