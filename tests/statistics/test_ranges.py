"""Absmax, moments and histograms against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lowbit.errors import DataError, NonFiniteError
from lowbit.statistics.ranges import Absmax, Histogram, Moments


def sequences(count: int, tokens: int, n: int, seed: int = 0, shift: float = 0.0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(tokens, n, generator=g) * 2.0 ** (i % 3) + shift for i in range(count)]


def together(data: list[Tensor]) -> np.ndarray:
    return torch.cat(data).numpy().astype(np.float64)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_absmax(count: int, tokens: int, n: int, seed: int) -> None:
    data = sequences(count, tokens, n, seed)
    statistic = Absmax()
    for x in data:
        statistic.update(x)
    assert (statistic.value().numpy() == np.abs(together(data)).max(0)).all()


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99), st.sampled_from([0.0, 1e4]))
def test_moments(count: int, tokens: int, n: int, seed: int, shift: float) -> None:
    """A large mean costs no accuracy: the sums are those of deviations."""
    data = sequences(count, tokens, n, seed, shift)
    statistic = Moments()
    for x in data:
        statistic.update(x)
    mean, variance = statistic.value().numpy()
    np.testing.assert_allclose(mean, together(data).mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(variance, together(data).var(0), rtol=1e-9, atol=1e-12)


def counts_of(values: np.ndarray, bins: int, limit: float) -> np.ndarray:
    """numpy's histogram of |x| over (0, limit)."""
    return np.histogram(np.abs(values), bins, (0.0, limit))[0]


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5), st.integers(1, 30), st.sampled_from([6, 16, 2048]), st.integers(0, 99))
def test_a_histogram_that_grows_keeps_its_counts(scales: list[float], tokens: int, bins: int, seed: int) -> None:
    """The limit is a power of two that doubles; what was counted before is what numpy counts at the final limit."""
    g = torch.Generator().manual_seed(seed)
    data = [torch.randn(tokens, 2, generator=g) * s for s in scales]
    statistic = Histogram(bins)
    for x in data:
        statistic.update(x)
    limit, counts = float(statistic.value()[0]), statistic.value()[1:].numpy()
    largest = np.abs(together(data)).max()
    assert largest <= limit < 2 * largest * (1 + 1e-6) and np.log2(limit) == round(np.log2(limit))
    assert counts.sum() == 2 * tokens * len(scales)
    assert (counts == counts_of(together(data), bins, limit)).all()


@pytest.mark.parametrize("bins", [6, 10, 2048])
@pytest.mark.parametrize(("one", "other"), [(1.0, 1.0), (1.0, 700.0), (700.0, 1.0), (1e6, 1e-6), (0.0, 3.0), (3.0, 0.0), (0.0, 0.0)])
def test_histograms_merge_whatever_their_limits(one: float, other: float, bins: int) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(50, 2, generator=g) * one, torch.rand(50, 2, generator=g) * other
    whole, first, second = Histogram(bins), Histogram(bins), Histogram(bins)
    for x in (a, b):
        whole.update(x)
    first.update(a)
    second.update(b)
    kept = second.value().clone()
    first.merge(second)
    assert torch.equal(first.value(), whole.value())
    assert torch.equal(second.value(), kept)
    first.update(a)
    assert torch.equal(second.value(), kept), "merged histograms share their counts"


def test_the_largest_number_lies_in_the_last_bin() -> None:
    statistic = Histogram(4)
    statistic.update(torch.tensor([[1.0, 0.0, -0.25, 0.75]]))
    assert statistic.value().tolist() == [1.0, 1.0, 1.0, 0.0, 2.0]


@pytest.mark.parametrize("bins", [0, 1, 7, -2])
def test_an_odd_number_of_bins_is_refused(bins: int) -> None:
    with pytest.raises(DataError, match=f"a histogram of {bins} bins; take an even number"):
        Histogram(bins)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_histogram_has_no_place_for_what_is_not_finite(bad: float) -> None:
    with pytest.raises(NonFiniteError, match="hold 1 NaN or Inf"):
        Histogram().update(torch.tensor([[1.0, bad]]))
