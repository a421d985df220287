"""Entropy and percentile clips: long tails are cut, full ranges are kept, and the histogram statistic leads to the same clip."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.formats.integer import INTEGERS, int8
from lowbit.scaling.entropy import Entropy, clip_of_histogram, entropy_clip, percentile_clip
from lowbit.statistics.ranges import Histogram


def test_outliers_are_cut_and_uniform_data_are_not():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 100_000, generator=g)
    x[0, 0] = 40.0
    clip = Entropy()(x, int8).scale.item() * 127
    assert 3 < clip < 12
    uniform = torch.rand(1, 100_000, generator=g) - 0.5
    assert Entropy()(uniform, int8).scale.item() * 127 > 0.45


def test_a_histogram_that_its_codes_hold_exactly_is_kept():
    counts = torch.zeros(512, dtype=torch.float64)
    counts[3::4] = 5.0  # one bin a code of uint7: nothing is merged when all 512 bins are kept
    assert entropy_clip(counts, INTEGERS["uint7"], stride=1).item() >= 509


def test_percentiles_of_counts():
    counts = torch.tensor([90.0, 5.0, 4.0, 1.0])
    assert [int(percentile_clip(counts, s)) for s in (0.5, 0.9, 0.95, 0.96, 0.999)] == [1, 1, 2, 3, 4]


def test_the_statistic_gives_the_range():
    x = torch.randn(50_000, 4, generator=torch.Generator().manual_seed(0))
    histogram = Histogram()
    histogram.update(x)
    exact = x.abs().flatten().kthvalue(int(0.999 * x.numel())).values.item()
    assert clip_of_histogram(histogram.value(), share=0.999) == pytest.approx(exact, abs=2 * histogram.limit / histogram.bins)
    assert 2.5 < clip_of_histogram(histogram.value(), fmt=int8) <= histogram.limit
    with pytest.raises(UnsupportedError, match="give one of them"):
        clip_of_histogram(histogram.value())
