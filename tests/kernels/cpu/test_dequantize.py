"""Codes that a format does not have."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lowbit.blocks import Blocks
from lowbit.errors import UnsupportedError
from lowbit.formats.table import TableFormat
from lowbit.quantizers.grid import Grid


@pytest.mark.parametrize("count, kind", [(3, torch.uint8), (300, torch.int32)])
def test_a_code_that_does_not_exist_is_an_error(count: int, kind: torch.dtype, cpu: Any) -> None:
    grid = Grid(TableFormat("line", tuple(map(float, range(count)))), Blocks(None), (2, 40))
    codes = torch.full((2, 40), count - 1).to(kind)
    assert torch.equal(grid.dequantize(codes), codes.float())
    for bad in (count, 2**31 - 1, -1) if kind == torch.int32 else (count, 255):
        codes[1, 39] = bad
        with pytest.raises(UnsupportedError, match=f"below {count}"):
            grid.dequantize(codes)
