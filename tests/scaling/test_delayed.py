"""Delayed scaling: from histories to rules."""

import math

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.formats.minifloat import float8_e4m3fn
from lowbit.scaling.delayed import Delayed, from_history


def test_the_history_decides():
    history = [448.0, 896.0, math.inf, 224.0]
    assert from_history(history).largest == 896.0 and from_history(history, "latest").largest == 224.0
    assert from_history([]) == from_history([0.0, math.nan]) == Delayed(1.0)
    x = torch.full((2, 8), 1e6)
    assert from_history(history)(x, float8_e4m3fn).scale.tolist() == [2.0, 2.0]
    assert from_history(history, margin=3)(x, float8_e4m3fn).scale.tolist() == [16.0, 16.0]
    with pytest.raises(UnsupportedError, match="delayed:-1"):
        Delayed(-1.0)
