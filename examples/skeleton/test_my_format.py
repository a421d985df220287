"""What a new format owes its readers: one identity, and what it is for."""

from pathlib import Path

import torch

from lowbit import catalog
from lowbit.quantizers.emulate import fake_quantize

catalog.load_file(Path(__file__).parent / "my_format.py")
my5 = catalog.find("format", "my5")


def squared_error(spec, x):
    return float((fake_quantize(x, spec) - x).square().mean())


def test_every_number_is_its_own_code():
    codes = torch.arange(my5.levels)
    assert torch.equal(my5.encode(my5.decode(codes)).long(), codes)


def test_it_beats_int5_on_gaussian_weights():
    x = torch.randn(256, 1024, generator=torch.Generator().manual_seed(0))
    assert squared_error("my5 g32", x) < 0.95 * squared_error("int5 g32", x)
