"""Sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit.errors import SpecError
from lowbit.sizes import UNITS, size


@pytest.mark.parametrize(
    "words, expected",
    [
        ("500MB", 500_000_000),
        ("2GB", 2_000_000_000),
        ("1.5GiB", 3 << 29),
        ("1kib", 1024),
        ("1 KB", 1000),
        ("  7  ", 7),
        ("12b", 12),
        ("0.001KB", 1),
        ("1.1GB", 1_100_000_000),
        ("3TiB", 3 << 40),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_a_size_is_a_number_and_a_unit(words, expected):
    assert size(words) == expected


@given(st.integers(1, 10**18 - 1), st.sampled_from(sorted(UNITS)))
def test_whole_numbers_of_units_are_exact(number, unit):
    assert size(f"{number}{unit.upper()}") == number * UNITS[unit]


@pytest.mark.parametrize(
    "words", ["", "GB", "-1GB", "0", "0.0GB", "0.4", "1e3", "1,5GB", "1.GB", ".5GB", "2 G B", "5 apples", "inf", "nan", "1GB2", "9" * 5000]
)
def test_what_is_no_size_is_named(words):
    with pytest.raises(SpecError, match="is no size above 0; write 500MB or 2GB") as caught:
        size(words)
    assert repr(words) in str(caught.value)
