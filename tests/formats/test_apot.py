"""Additive powers of two against the sets that the paper and its code give for 3, 4 and 5 bits and a sign."""

import itertools

import pytest

from lowbit.errors import UnsupportedError
from lowbit.formats.apot import additive_powers

#: exponents of the terms, for the bits without the sign
TERMS = {
    2: [(1, 2, 3)],
    3: [(1, 2, 4), (3,)],
    4: [(1, 3, 5), (2, 4, 6)],
    5: [(1, 3, 6), (2, 4, 7), (5,)],
    6: [(1, 4, 7), (2, 5, 8), (3, 6, 9)],
}


@pytest.mark.parametrize("magnitude_bits", TERMS)
def test_magnitudes_are_sums_of_powers(magnitude_bits):
    sums = {sum(choice) for choice in itertools.product(*([0.0, *(2.0**-e for e in term)] for term in TERMS[magnitude_bits]))}
    fmt = additive_powers(magnitude_bits + 1)
    assert len(sums) == 2**magnitude_bits
    assert list(fmt.values[: len(sums)]) == pytest.approx(sorted(s / max(sums) for s in sums), rel=1e-6)
    assert fmt.levels == 2 * len(sums) - 1 and fmt.max == 1 and fmt.min == -1


def test_widths_have_bounds():
    with pytest.raises(UnsupportedError, match="apot2: 3 to 8 bits"):
        additive_powers(2)
