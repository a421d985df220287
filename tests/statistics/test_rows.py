"""Rows, mean magnitudes and extremes against torch on all data at once."""

import pytest
import torch

from lowbit.errors import DataError
from lowbit.statistics.rows import Absmean, Extremes, Rows


def parts():
    return torch.randn(40, 3), torch.randn(7, 3) * 5


@pytest.mark.parametrize(("kind", "expected"), [
    (Absmean, lambda x: x.double().abs().mean(0)),
    (Extremes, lambda x: torch.stack((x.amin(0), x.amax(0)))),
])  # fmt: skip
def test_fed_in_parts_or_merged(kind, expected):
    a, b = parts()
    one, other = kind(), kind()
    one.update(a)
    one.update(b)
    torch.testing.assert_close(one.value(), expected(torch.cat((a, b))))
    other.update(a)
    rest = kind()
    rest.update(b)
    other.merge(rest)
    assert torch.equal(other.value(), one.value())


def test_rows_are_spread_over_each_sequence():
    a, b = parts()
    found = Rows()
    found.update(a)
    found.update(b)
    value = found.value()
    assert value.shape == (16 + 7, 3)
    assert torch.equal(value[0], a[0])
    assert torch.equal(value[15], a[39])
    assert torch.equal(value[16:], b)


@pytest.mark.parametrize("kind", [Rows, Absmean, Extremes])
def test_without_data_there_is_no_value(kind):
    with pytest.raises(DataError, match="no calibration data"):
        kind().value()
