"""What a new scale rule owes its readers: the written answers for zeros and NaN, its formula, and what it is for."""

from pathlib import Path

import pytest
import torch

from lowbit import catalog
from lowbit.quantizers.emulate import fake_quantize
from lowbit.quantizers.spec import find_format

catalog.load_file(Path(__file__).parent / "my_scaling.py")
Deviation = catalog.find("scaling", "deviation")


def test_the_formula():
    blocks = torch.tensor([[3.0, -3.0, 3.0, -3.0], [0.0, 0.0, 0.0, 0.0], [1.0, float("nan"), 0.0, 0.0]])
    scale = Deviation(width=2.0)(blocks, find_format("int4")).scale
    torch.testing.assert_close(scale, torch.tensor([3.0 * 2 / 7, 0.0, float("nan")]), equal_nan=True)


@pytest.mark.parametrize("width", [2.4, 2.6, 2.8])
def test_long_rows_of_int4_lose_less_than_with_absmax(width):
    x = torch.randn(16, 4096, generator=torch.Generator().manual_seed(0))
    errors = [float((fake_quantize(x, spec) - x).square().mean()) for spec in (f"int4 row deviation:{width}", "int4 row")]
    assert errors[0] < 0.6 * errors[1]
