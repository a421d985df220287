"""The record's signal-to-noise ratios at the best range, and which split wins where."""

import numpy as np
import pytest
import torch
from scipy import stats

from lowbit.quantizers.spec import quantizer

N = 60_000
PLACES = (np.arange(N) + 0.5) / N
LAWS = {
    "uniform": torch.from_numpy(2 * PLACES - 1).float(),
    "normal": torch.from_numpy(stats.norm.ppf(PLACES)).float(),
    "student": torch.from_numpy(stats.t.ppf(PLACES, 3)).float(),
}


@pytest.mark.parametrize(("law", "figures"), [
    ("uniform", {"int8_narrow": 48.1, "e2m5f": 44.4}),
    ("normal", {"int8_narrow": 40.9, "e2m5f": 42.9, "e3m4f": 37.6, "e4m3f": 31.6}),
    ("student", {"int8_narrow": 24.0, "e2m5f": 29.5, "e3m4f": 37.7, "e4m3f": 31.7}),
])  # fmt: skip
def test_figures_of_the_record(law, figures):
    x = LAWS[law].unsqueeze(0)
    found = {}
    for name, decibels in figures.items():
        y = quantizer(f"{name} row mse:0.1:111:1.2 scale=float32").quantize(x).dequantize()
        found[name] = (10 * torch.log10(x.square().sum() / (y - x).square().sum())).item()
        assert found[name] == pytest.approx(decibels, abs=0.7)
    assert sorted(found, key=found.get) == sorted(figures, key=figures.get)


@pytest.mark.parametrize(("law", "layout"), [("uniform", "e1m6f"), ("normal", "e2m5f"), ("student", "e3m4f")])
def test_the_best_layout(law, layout):
    assert quantizer("fp8_exponent").quantize(LAWS[law][::4].unsqueeze(0)).grid.format.name == layout
