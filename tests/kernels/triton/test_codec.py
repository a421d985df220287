"""How numbers of a format are read on a device: look-ups in equal buckets, and integers that are rounded by noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lowbit.kernels.cpu.codec import FIXED, FLOAT, LOOKUP, SEARCH, WIDE
from lowbit.quantizers.lowering import numbers_of
from lowbit.quantizers.spec import find_format
from lowbit.rounding.ieee754 import nearest_even
from lowbit.rounding.rounding import Rounding
from lowbit.rounding.stochastic import stochastic

codec = pytest.importorskip("lowbit.kernels.triton.codec")


@pytest.mark.parametrize(
    "name, rounding, way",
    [
        ("float8_e4m3fn", nearest_even, FLOAT), ("bfloat16", nearest_even, WIDE), ("int4", nearest_even, FIXED),
        ("int4", stochastic, FIXED), ("nf4_element", nearest_even, codec.UNIFORM), ("posit8_1", nearest_even, SEARCH),
        ("e3m0f", nearest_even, LOOKUP),
    ],
)  # fmt: skip
def test_the_way_taken(name: str, rounding: Rounding, way: int) -> None:
    numbers = numbers_of(find_format(name), rounding, "saturate")
    assert not isinstance(numbers, str)
    assert codec.host_codec(numbers).way.value == way


@pytest.mark.parametrize("name", ["nf4_element", "table(-1;0.1;0.11;1)", "table(1000;1000.25;1001;1002.5)", "int3_narrow"])
def test_equal_buckets_find_the_rank_of_every_number(name: str) -> None:
    """Against numpy's search, at the cut points, just below them and between; a table that does not fit has other buckets."""
    numbers = numbers_of(find_format(name), nearest_even, "saturate")
    assert not isinstance(numbers, str)
    cuts = numbers.cuts.numpy()
    fields: dict[str, int] = {}
    table = codec._uniform(fields, cuts)
    assert table is not None
    low, high, inverse = (np.uint32(fields[f"uniform_{k}"]).view(np.float32) for k in ("low", "high", "inverse"))
    draw = np.random.default_rng(0).normal(0, np.abs(cuts).max(), 20000).astype(np.float32)
    y = np.concatenate([cuts, np.nextafter(cuts, np.float32(-np.inf)), draw, np.float32([0, -0.0, 1e38, -1e38])])
    first = (low + np.float32(codec.INTEGERS)).view(np.int32)
    place = (np.clip(y * inverse, low, high) + np.float32(codec.INTEGERS)).view(np.int32) - first
    pairs = table.reshape(-1, 2)
    rank = pairs[place, 1] + (y >= pairs[place, 0].view(np.float32))
    assert np.array_equal(rank, np.searchsorted(cuts, y, side="right"))


def test_several_codecs_lie_one_after_another() -> None:
    ways = tuple(numbers_of(find_format(name), nearest_even, "saturate") for name in ("nf4_element", "nf4_element", "table(-1;0.1;1)"))
    words, starts, way = codec.codecs(ways, torch.device("cpu"))
    assert starts.tolist() == [0, 0, len(codec.host_codec(ways[0]).words)]
    assert len(words) == sum(len(codec.host_codec(ways[k]).words) for k in (0, 2))
    assert way.value == codec.UNIFORM
