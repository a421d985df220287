"""Rounding under learned ranges: whole ranges are rounding to nearest, and the gradients are differences with the rounding held."""

import pytest
import torch

from lowbit.quantizers.spec import quantizer
from lowbit.solvers.ranges import Learned, refusal

SPECS = ["int4 g32 scale=float32", "int2 g32 scale=float32", "uint3 g32 asym scale=float32", "e2m1 g32 scale=float32"]


def weight():
    return torch.randn(6, 64, generator=torch.Generator().manual_seed(0))


def shares(learned, high=1.0, low=1.0):
    like = learned.scale0
    return torch.full_like(like, high), None if learned.ends is None else torch.full_like(like, low)


@pytest.mark.parametrize("spec", [*SPECS, "nvfp4", "mxfp4 even", "int4 g32 asym", "int4 g32 hqq offset=float16"])
def test_whole_ranges_are_rounding_to_nearest(spec):
    W = weight()
    q = quantizer(spec).quantize(W)
    learned = Learned(W, q.grid)
    values, grid = learned.round(*shares(learned), None)
    assert torch.allclose(values, q.dequantize(), atol=1e-6)
    assert torch.equal(grid.choose(values).dequantize(), q.dequantize())


@pytest.mark.parametrize("spec", SPECS)
def test_narrow_ranges_round_to_a_grid_that_is_stored(spec):
    """With 7/10 of the range every value lies on the grid that comes back, no two further apart from W than they must be."""
    W = weight()
    learned = Learned(W, quantizer(spec).grid(W))
    values, grid = learned.round(*shares(learned, 0.7, 0.6), None)
    assert torch.allclose(grid.choose(W).dequantize(), values, atol=1e-6)


def test_v_rounds_the_other_way():
    W = weight()
    learned = Learned(W, quantizer("int4 g32 scale=float32").grid(W))
    start = learned.round(*shares(learned), None)[0].clone()
    up = learned.round(*shares(learned), torch.full_like(learned.x, 0.4999))[0].clone()
    down = learned.round(*shares(learned), torch.full_like(learned.x, -0.4999))[0]
    scale = learned.scale0.repeat_interleave(32, 1)
    assert bool(torch.isin(((up - start) / scale).round(), torch.tensor([0.0, 1.0])).all())
    assert bool(torch.isin(((start - down) / scale).round(), torch.tensor([0.0, 1.0])).all())
    between = ((W / scale) % 1 - 0.5).abs() < 0.49
    assert torch.allclose((up - down)[between], scale[between], rtol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_are_those_of_a_model_in_torch(spec):
    """The same function written with detached rounding and torch's own autograd."""
    W = weight() * torch.linspace(0.5, 2.0, 64)
    grid = quantizer(spec).grid(W)
    learned = Learned(W, grid)
    g = torch.Generator().manual_seed(1)
    v = (0.8 * torch.rand(learned.x.shape, generator=g) - 0.4).requires_grad_()
    high, low = shares(learned, 0.6, 0.7)
    values, _ = learned.round(high, low, v.detach())
    direction = torch.randn(values.shape, generator=g)
    of_v = torch.empty_like(learned.x)
    of_high, of_low = learned.gradients(direction, v.detach(), lambda piece, found: of_v[piece].copy_(found))

    high.requires_grad_()
    least, most, x = learned.least, learned.most, grid.blocks.split(W)
    if low is None:
        scale, zero = (high * learned.scale0).unsqueeze(-1), 0.0
    else:
        low.requires_grad_()
        top, bottom = high * learned.ends[0], low * learned.ends[1]
        scale = ((top - bottom) / (most - least)).unsqueeze(-1)
        exact = least - bottom.unsqueeze(-1) / scale
        zero = exact  # its rounding is taken for nothing
    y = x / scale
    reached = (grid.blocks.split(values.clone()) / scale.detach()).detach()  # t, held
    bottom_end, top_end = (least, most) if low is None else ((least - zero).detach().round(), (most - zero).detach().round())
    nearest, last = (y + v).round(), (y + 2 * v).abs() <= 7  # half the last gap of e2m1, from 4 to 6, beyond its end
    inside = (nearest <= top_end) & (nearest >= bottom_end) if learned.whole else last
    straight = y + v + (reached - y - v).detach()
    ends = torch.where(reached > y, least - zero, most - zero) if low is not None else reached
    model = scale * torch.where(inside, straight, ends)
    wanted = torch.autograd.grad((model * grid.blocks.split(direction)).sum(), [v, high] + ([] if low is None else [low]))
    assert torch.allclose(of_v * scale.detach(), wanted[0], atol=1e-5)
    assert torch.allclose(of_high, wanted[1], rtol=1e-3, atol=1e-3)
    if low is not None:
        assert torch.allclose(of_low, wanted[2], rtol=1e-3, atol=1e-3)


def test_what_has_no_range_to_move():
    assert refusal(quantizer("int4 g32"), "x") is None
    assert "has no scale that could be moved alone" in refusal(quantizer("hif4"), "x")
    assert "has no scale that could be moved alone" in refusal(quantizer("bfloat16"), "x")
