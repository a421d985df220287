"""AF4: every number is the median of its bin under the law of normal blocks of 64 over their largest magnitude."""

import itertools

import numpy as np
import pytest

from lowbit.formats.abnormal_float import af4

stats = pytest.importorskip("scipy.stats")


def law(x, block=64):
    """P(number <= x) among those of a block that are not its largest: the largest has density B G^(B-1) g, the rest are truncated."""
    m = np.linspace(1e-4, 8, 8001)
    inside = 2 * stats.norm.cdf(m) - 1
    weight = block * inside ** (block - 1) * 2 * stats.norm.pdf(m) * (m[1] - m[0])
    return (weight * (stats.norm.cdf(m * x) - stats.norm.cdf(-m)) / inside).sum()


def test_every_number_is_the_median_of_its_bin():
    v = af4.values
    for side in (v[:8], [-u for u in reversed(v[7:])]):  # -1 .. 0, seen from either end; the last bin ends at zero
        borders = [(a + b) / 2 for a, b in itertools.pairwise(side[:-1])] + [0.0]
        for number, low, high in zip(side[1:-1], borders[:-1], borders[1:], strict=True):
            assert law(number) == pytest.approx((law(low) + law(high)) / 2, abs=3e-6)
