"""Clip: a given range whatever the data."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.formats.integer import int4
from lowbit.scaling.clip import Clip


def test_the_scale_does_not_look_at_the_data():
    assert Clip(14.0)(torch.tensor([[1.0], [100.0], [0.0]]), int4).scale.tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(UnsupportedError, match="clip:0: the largest magnitude is a positive number"):
        Clip(0.0)
