"""iFairy: sectors, scales and bytes, against complex arithmetic."""

import cmath
import math

import pytest
import torch

from lowbit.errors import ShapeError
from lowbit.quantizers.ifairy import sectors
from lowbit.quantizers.spec import quantizer

ifairy = quantizer("ifairy")


def test_the_sector_is_the_nearest_root():
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    want = [round(cmath.phase(complex(*pair)) / (math.pi / 2)) % 4 for pair in x.tolist()]
    assert sectors(x).flatten().tolist() == want


def test_turning_by_a_right_angle_turns_the_code():
    borders = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])
    turned = torch.stack((-borders[:, 1], borders[:, 0]), 1)
    assert torch.equal(sectors(turned), (sectors(borders) + 1) % 4)
    assert sectors(torch.tensor([[1.0, 1.0], [0.0, 0.0]])).flatten().tolist() == [1, 0]


def test_scales_are_the_means_of_what_they_stand_for():
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    q = ifairy.quantize(x)
    pairs, real = x.unflatten(-1, (-1, 2)), q.codes % 2 == 0
    assert q.grid.scale.tolist() == pytest.approx([pairs[..., 0][real].abs().mean().item(), pairs[..., 1][~real].abs().mean().item()])
    y = q.dequantize().unflatten(-1, (-1, 2))
    assert bool(((y != 0).sum(-1) == 1).all()) and q.shape == (64, 32)
    assert ifairy.nbytes((64, 32)) == 64 * 32 // 8 + 8


def test_products_are_additions():
    """y_re = A re + B im with the sparse +-1 matrices, as the complex product with the conjugate input."""
    g = torch.Generator().manual_seed(2)
    W, x = ifairy.quantize(torch.randn(8, 32, generator=g)).dequantize(), torch.randn(32, generator=g)
    A, B = W[:, ::2], W[:, 1::2]
    complex_product = torch.complex(A, B) @ torch.complex(x[::2], -x[1::2])
    assert torch.allclose(A @ x[::2] + B @ x[1::2], complex_product.real, atol=1e-6)


def test_odd_axes_are_refused_and_an_empty_sector_is_finite():
    with pytest.raises(ShapeError, match="ifairy takes pairs on the last axis"):
        ifairy.quantize(torch.zeros(2, 3))
    assert torch.equal(ifairy.quantize(torch.tensor([[1.0, 0.1, -3.0, 0.2]])).dequantize(), torch.tensor([[2.0, 0.0, -2.0, 0.0]]))
