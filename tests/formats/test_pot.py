"""Powers of two: which numbers there are."""

import pytest

from lowbit.errors import UnsupportedError
from lowbit.formats.pot import pot4, powers_of_two


def test_numbers_are_zero_and_signed_powers():
    assert set(pot4.values) == {0.0, *(s * 2.0**-k for s in (1, -1) for k in range(7))} and pot4.levels == 15 and pot4.max == 1
    with pytest.raises(UnsupportedError, match="pot9: 2 to 8 bits"):
        powers_of_two(9)
