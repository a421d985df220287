"""Percentile: an element of the block, found by sorting."""

import math

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.formats.integer import int8
from lowbit.scaling.absmax import absmax
from lowbit.scaling.percentile import Percentile, percentile
from lowbit.testing.scalings import KINDS, blocks_of


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_it_is_an_element_of_the_sorted_magnitudes(kind, share):
    blocks = blocks_of(kind, elements=100)
    want = blocks.abs().sort(-1).values[:, math.ceil(share * 100) - 1] / 127
    assert torch.equal(Percentile(share)(blocks, int8).scale, want)


def test_all_of_them_is_absmax():
    blocks = blocks_of("random")
    assert torch.equal(Percentile(1.0)(blocks, int8).scale, absmax(blocks, int8).scale)


def test_text():
    assert str(percentile) == "percentile" and str(Percentile(0.95)) == "percentile:0.95"


@pytest.mark.parametrize("share", [0.0, 1.5, -1.0, math.nan])
def test_other_shares_are_refused(share):
    with pytest.raises(UnsupportedError, match=r"the share is in \(0, 1\], 0.999 for instance"):
        Percentile(share)
