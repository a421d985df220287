"""Gram and cross matrices against brute force in float64, and what may and may not change their bytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lowbit.errors import DataError, NonFiniteError
from lowbit.statistics.gram import PANEL, Cross, Gram


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def sequences(count: int, tokens: int, n: int, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(n, n, generator=g)
    return [torch.randn(tokens, n, generator=g) @ mix for _ in range(count)]


def fed(statistic: Gram, data: list[Tensor], references: list[Tensor] | None = None) -> Gram:
    for i, x in enumerate(data):
        statistic.update(x, reference=None if references is None else references[i])
    return statistic


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 8), st.integers(0, 99))
def test_gram_is_the_sum_of_outer_products(count: int, tokens: int, n: int, seed: int) -> None:
    data = sequences(count, tokens, n, seed)
    exact = np.zeros((n, n))
    for x in data:
        for row in x.numpy().astype(np.float64):
            exact += np.outer(row, row)
    got = fed(Gram(), data)
    assert got.value().dtype == torch.float64 and got.tokens == count * tokens
    sizes = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))  # |sum x_i x_j| is at most this
    assert (np.abs(got.value().numpy() - exact) <= (tokens + 2) * 2.0**-24 * sizes + 1e-30).all()


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_cross_is_the_difference_of_the_streams_against_the_quantized_one(count: int, tokens: int, n: int, seed: int) -> None:
    data, exactly = sequences(count, tokens, n, seed), sequences(count, tokens, n, seed + 1000)
    expected = np.zeros((n, n))
    for x, full in zip(data, exactly, strict=True):
        quantized, reference = x.numpy().astype(np.float64), full.numpy().astype(np.float64)
        for t in range(tokens):
            expected += np.outer(reference[t] - quantized[t], quantized[t])
    got = fed(Cross(), data, exactly).value().numpy()
    scale = sum(float(f.norm() + x.norm()) * float(x.norm()) for f, x in zip(exactly, data, strict=True))
    assert np.abs(got - expected).max() <= 4 * (tokens + 2) * 2.0**-24 * scale
    assert np.abs(fed(Cross(), data, data).value().numpy()).max() == 0


def test_cross_is_not_symmetric() -> None:
    """The first axis is that of the difference; a transposed one would pass every test with symmetric data."""
    x, full = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 5.0]])
    assert fed(Cross(), [x], [full]).value().tolist() == [[0.0, 0.0], [5.0, 0.0]]


def test_low_precision_inputs_are_multiplied_in_float32() -> None:
    (x,) = sequences(1, 40, 16)
    for kind in (torch.bfloat16, torch.float16):
        small = (x / 8).to(kind)
        assert torch.equal(fed(Gram(), [small]).value(), fed(Gram(), [small.float()]).value())


@pytest.mark.parametrize("kind", [Gram, Cross])
@pytest.mark.parametrize(("n", "tokens"), [(16, 512), (96, 200), (128, 2048), (300, 1100), (2 * PANEL, 700), (3 * PANEL - 1, 530)])
def test_the_number_of_threads_changes_no_byte(n: int, tokens: int, kind: type[Gram]) -> None:
    """Also for long sequences, where one product of torch over all tokens would depend on it."""
    data, exactly = sequences(2, tokens, n), sequences(2, tokens, n, 7)
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(fed(kind(), data, exactly).value().clone())
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("n", [PANEL - 1, 2 * PANEL - 1, 2 * PANEL, 3 * PANEL + 5])
def test_both_halves_of_a_large_gram_matrix_are_there(n: int) -> None:
    data = sequences(2, 20, n)
    gram = fed(Gram(), data[:1])
    gram.value()
    fed(gram, data[1:])  # what was mirrored before does not count twice
    exact = sum(x.double().mT @ x.double() for x in data)
    assert torch.equal(gram.value(), gram.value().mT)
    torch.testing.assert_close(gram.value(), exact, rtol=1e-4, atol=1e-3 * float(exact.abs().max()))


def test_merging_is_going_on() -> None:
    """Where another has seen the data that follow, merging gives the sum of the two; the order of the data is kept."""
    data = sequences(6, 30, 12)
    whole, first, second = fed(Gram(), data), fed(Gram(), data[:3]), fed(Gram(), data[3:])
    before = second.value().clone()
    first.merge(second)
    torch.testing.assert_close(first.value(), whole.value(), rtol=1e-14, atol=1e-11)
    assert first.tokens == whole.tokens == 180
    assert torch.equal(second.value(), before)
    one_by_one = Gram()
    for x in data:
        one_by_one.merge(fed(Gram(), [x]))
    assert torch.equal(one_by_one.value(), whole.value()), "sequence by sequence it is the same sum in the same order"


def test_merging_into_an_empty_one_shares_nothing() -> None:
    data = sequences(3, 10, 4)
    seen, empty = fed(Gram(), data[:2]), Gram()
    kept = seen.value().clone()
    empty.merge(seen)
    assert torch.equal(empty.value(), kept)
    empty.update(data[2])
    assert torch.equal(seen.value(), kept)
    seen.merge(Gram())
    assert torch.equal(seen.value(), kept)


def test_the_order_of_sequences_matters_no_more_than_float64_does() -> None:
    data = sequences(8, 50, 10)
    forward, backward = fed(Gram(), data).value(), fed(Gram(), data[::-1]).value()
    torch.testing.assert_close(forward, backward, rtol=1e-13, atol=1e-10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_counted(bad: float) -> None:
    (x,) = sequences(1, 5, 4)
    x[2, 1] = bad
    x[3, 0] = bad
    with pytest.raises(NonFiniteError, match="the inputs of this layer hold 2 NaN or Inf"):
        Gram().update(x)


def test_a_square_that_overflows_is_refused() -> None:
    with pytest.raises(NonFiniteError, match="hold 0 NaN or Inf, or their squares overflow"):
        Gram().update(torch.full((2, 2), 1e30))


def test_nothing_seen_is_an_error() -> None:
    for statistic in (Gram(), Cross()):
        with pytest.raises(DataError, match="no calibration data has reached this layer"):
            statistic.value()
    with pytest.raises(DataError, match="needs the full-precision stream beside the quantized one"):
        Cross().update(torch.ones(2, 2))
