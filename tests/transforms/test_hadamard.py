"""Hadamard matrices of every order that models have, and what they do to outliers."""

import pytest
import torch

from lowbit.errors import ShapeError
from lowbit.philox import Key
from lowbit.transforms.hadamard import Turned, factors, multiply


@pytest.mark.parametrize("n", [1, 2, 12, 20, 28, 36, 44, 64, 128, 576, 640, 768, 896, 1536])
def test_matrices_are_orthogonal_and_all_entries_equally_large(n):
    H = multiply(torch.eye(n, dtype=torch.float64), n)
    torch.testing.assert_close(H @ H.mT, torch.eye(n, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(H.abs(), torch.full_like(H, n**-0.5), atol=1e-12, rtol=0)
    torch.testing.assert_close(multiply(H, n, transposed=True), torch.eye(n, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_power_of_two_is_sylvesters_matrix():
    scipy = pytest.importorskip("scipy.linalg")
    for n in (2, 16, 256):
        expected = torch.from_numpy(scipy.hadamard(n)).double() / n**0.5
        torch.testing.assert_close(multiply(torch.eye(n, dtype=torch.float64), n), expected, atol=1e-12, rtol=0)


def test_orders_without_a_construction_are_refused_with_one_that_fits():
    with pytest.raises(ShapeError, match="no Hadamard matrix of 6 is known here; a size .* power of two fits, 2 at most"):
        factors(6)
    with pytest.raises(ShapeError, match="Hadamard blocks of 32 do not divide 48 channels; 16 would"):
        Turned.of(48, 32, Key())


def test_blocks_share_their_signs_and_do_not_mix():
    change = Turned.of(64, 16, Key(1, "layer"))
    x = torch.zeros(64)
    x[17] = 4.0
    y = change.online(x)
    assert y[16:32].abs().tolist() == [1.0] * 16
    assert not y[:16].any() and not y[32:].any()
    assert torch.equal(change.signs.reshape(4, 16), change.signs[:16].repeat(4, 1))
    assert not torch.equal(change.signs, Turned.of(64, 16, Key(2, "layer")).signs)


def test_an_outlier_is_spread_over_all_channels():
    """Incoherence: one large channel of n becomes n of equal size, so the largest number falls by sqrt(n) / little."""
    x = torch.randn(200, 576, generator=torch.Generator().manual_seed(0))
    x[:, 5] = 100
    y = Turned.of(576, 0, Key()).online(x)
    assert float(y.abs().max()) < 10
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1))
