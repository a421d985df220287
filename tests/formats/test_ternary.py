"""Ternary: -1, 0, 1, with zero as the even number."""

import torch

from lowbit.formats.ternary import ternary


def test_ties_go_to_zero():
    y = torch.tensor([-9.0, -0.5000001, -0.5, -0.1, 0.0, 0.5, 0.5000001, 9.0])
    assert ternary.decode(ternary.encode(y)).tolist() == [-1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]


def test_facts():
    assert (ternary.bits, ternary.levels, ternary.max, ternary.min, ternary.min_positive) == (2, 3, 1.0, -1.0, 1.0)


def test_it_is_round_and_clip_of_bitnet():
    """BitNet b1.58, Eq. 2: RoundClip(x, -1, 1) = max(-1, min(1, round(x)))."""
    y = torch.linspace(-3, 3, 4001)
    assert torch.equal(ternary.decode(ternary.encode(y)), y.round().clamp(-1, 1))
