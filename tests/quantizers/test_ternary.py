"""Ternary and binary weights as their papers write them."""

import pytest
import torch

from lowbit.quantizers.ternary import binary, ternary
from lowbit.testing.quantizers import sample

pytestmark = pytest.mark.usefixtures("every_backend")

W = sample((16, 128))


def test_ternary_is_bitnet():
    """b1.58, Eq. 1-3: RoundClip(W / gamma, -1, 1) with gamma the mean magnitude of the whole tensor."""
    gamma = W.double().abs().mean().float()
    q = ternary.quantize(W)
    assert torch.equal(q.grid.scale, gamma)
    assert torch.equal(q.dequantize(), (W / gamma).round().clamp(-1, 1) * gamma)
    assert ternary.nbytes((16, 128)) == 16 * 128 // 4 + 4


def test_binary_is_xnor_net():
    """Eq. 6: the sign times the mean magnitude of each row, which is the least-squares scale."""
    alpha = W.double().abs().mean(-1, keepdim=True).float()
    q = binary.quantize(W)
    assert torch.equal(q.dequantize(), torch.where(W >= 0, alpha, -alpha))
    error = (q.dequantize() - W).square().sum()
    for factor in (0.99, 1.01):
        assert (q.dequantize() * factor - W).square().sum() > error
    assert binary.nbytes((16, 128)) == 16 * 128 // 8 + 16 * 4
