"""Stochastic rounding: unbiased, only the two neighbours, numbers unmoved, the same bits under any split."""

import itertools
import math

import pytest
import torch

from lowbit import catalog
from lowbit.errors import UnsupportedError
from lowbit.formats.minifloat import bfloat16, float4_e2m1fn, float8_e4m3fn
from lowbit.philox import Key, noise
from lowbit.rounding.stochastic import stochastic

DRAWS = 40_000


def rounded(fmt, y, words):
    return fmt.decode(fmt.encode(y, stochastic, words))


@pytest.mark.parametrize("name", ["float4_e2m1fn", "float8_e4m3fn", "float8_e5m2", "int4", "nf4_element", "ternary_element", "bfloat16"])
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9])
def test_the_mean_is_the_number(name, share):
    """Within 4 standard errors, in the gap above zero, one in the middle and the last one."""
    fmt = catalog.find("format", name)
    numbers = sorted({v for v in fmt.values if math.isfinite(v) and v >= 0})
    for i in (0, len(numbers) // 2, len(numbers) - 2):
        if i + 1 >= len(numbers):
            continue
        low, high = numbers[i], numbers[i + 1]
        y = torch.full((DRAWS,), low + share * (high - low), dtype=torch.float64).float()
        exact = (float(y[0]) - low) / (high - low)
        ups = (rounded(fmt, y, noise(Key(1, name, step=i), (DRAWS,))) == high).double().mean().item()
        assert abs(ups - exact) <= 4 * math.sqrt(exact * (1 - exact) / DRAWS)


def test_only_the_two_neighbours_occur():
    y = torch.full((DRAWS,), 2.2)
    assert set(rounded(float4_e2m1fn, y, noise(Key(2), (DRAWS,))).tolist()) == {2.0, 3.0}
    assert set(rounded(float4_e2m1fn, -y, noise(Key(2), (DRAWS,))).tolist()) == {-2.0, -3.0}


@pytest.mark.parametrize("word", [0, 1, 2**31, 2**32 - 1])
def test_numbers_of_the_format_are_not_moved(word):
    for fmt in (float4_e2m1fn, float8_e4m3fn, bfloat16):
        numbers = torch.tensor(sorted({v for v in fmt.values if math.isfinite(v)}))
        assert torch.equal(rounded(fmt, numbers, torch.full(numbers.shape, word)), numbers)


def test_it_saturates():
    y = torch.tensor([9.0, -9.0, math.inf, -math.inf])
    for word in (0, 2**32 - 1):
        assert rounded(float4_e2m1fn, y, torch.full((4,), word)).tolist() == [6.0, -6.0, 6.0, -6.0]


def test_the_same_bits_under_any_split():
    """Noise belongs to the element's index in the whole tensor: batches, shards and pieces give what the whole gives."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(37, 13, generator=g)
    key = Key(11, "layer.weight", "weight", 5)
    whole = rounded(float4_e2m1fn, x, noise(key, (37, 13)))
    for cuts in ([0, 1, 2, 37], [0, 36, 37], [0, 5, 18, 30, 37]):
        pieces = [rounded(float4_e2m1fn, x[a:b], noise(key, (b - a, 13), start=a * 13)) for a, b in itertools.pairwise(cuts)]
        assert torch.equal(torch.cat(pieces), whole)
    assert not torch.equal(rounded(float4_e2m1fn, x, noise(key._replace(step=6), (37, 13))), whole)


def test_without_noise_it_says_what_to_pass():
    with pytest.raises(UnsupportedError, match=r"needs noise; pass noise=lowbit.philox.noise\(Key\(seed\), x.shape\)"):
        float4_e2m1fn.encode(torch.tensor([0.3]), stochastic)
