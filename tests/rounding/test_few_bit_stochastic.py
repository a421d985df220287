"""Few random bits: the exact probability of every share, and the stated bias."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.rounding.few_bit_stochastic import few_bit_stochastic
from lowbit.rounding.rounding import Gap


def probabilities(rounding, bits, shares):
    """Over all words of the upper bits, exactly."""
    words = torch.arange(2**bits, dtype=torch.int64) << 32 - bits
    found = []
    for share in shares:
        y = torch.full(words.shape, share)
        gap = Gap(y, torch.zeros_like(y), torch.ones_like(y), torch.zeros_like(y, dtype=torch.bool))
        found.append(rounding(gap, words).double().mean().item())
    return found


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_probabilities_and_bias(bits):
    shares = [0.01, 0.1, 0.25, 0.37, 0.5, 0.62, 0.9, 0.99]
    for corrected in (True, False):
        rounding = few_bit_stochastic(bits, corrected=corrected)
        errors = [p - torch.tensor(s).item() for p, s in zip(probabilities(rounding, bits, shares), shares, strict=True)]
        assert max(map(abs, errors)) <= rounding.bias == 2.0 ** -(bits + corrected)
        assert corrected or max(errors) <= 0


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_mean_bias_over_all_shares_is_the_formula(bits):
    """All shares of 2**-12 gaps: cutting off loses half a step of the noise (less half a share), adding half a step mends it."""
    shares = [i / 4096 for i in range(1, 4096)]
    for corrected, wanted in ((False, -(2.0 ** -(bits + 1)) + 2.0**-13), (True, 2.0**-13)):
        found = probabilities(few_bit_stochastic(bits, corrected=corrected), bits, shares)
        mean = sum(p - s for p, s in zip(found, shares, strict=True)) / 4096
        assert mean == pytest.approx(wanted, abs=1e-9)


def test_widths_have_bounds():
    with pytest.raises(UnsupportedError, match="with 0 random bits"):
        few_bit_stochastic(0)
