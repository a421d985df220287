"""Random direction: either neighbour half of the time, whatever is nearer."""

import torch

from lowbit.formats.integer import int8
from lowbit.philox import Key, noise
from lowbit.rounding.random_direction import random_direction


def test_both_neighbours_equally_often():
    for share in (0.01, 0.5, 0.99):
        up = int8.decode(int8.encode(torch.full((40_000,), 3 + share), random_direction, noise(Key(1, f"{share}"), (40_000,)))) == 4
        assert abs(up.float().mean().item() - 0.5) < 0.01
