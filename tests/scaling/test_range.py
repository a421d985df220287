"""Range: the offset is the minimum, and the whole range is spread."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.formats.integer import INTEGERS
from lowbit.quantizers.spec import quantizer
from lowbit.scaling.range import range_rule


def test_ends_are_kept():
    x = torch.tensor([[3.0, 5.0, 18.0, 4.0], [-2.0, -2.0, -2.0, -2.0]])
    found = range_rule(x, INTEGERS["uint4"])
    assert found.scale.tolist() == [1.0, 0.0] and found.offset.tolist() == [3.0, -2.0]
    assert torch.equal(quantizer("uint4 g4 range scale=float32").quantize(x).dequantize(), x)
    with pytest.raises(UnsupportedError, match="int4 starts at -8"):
        range_rule(x, INTEGERS["int4"])
