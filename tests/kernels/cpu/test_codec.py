"""Every way to the numbers of a format: which is taken, and that users' tables are exact; registered ones: tests/testing/test_golden.py."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from lowbit import catalog
from lowbit.formats.table import TableFormat
from lowbit.kernels.cpu.codec import FIXED, FLOAT, LOOKUP, SEARCH, SHORT, WIDE, buckets, codec
from lowbit.kernels.op import backend
from lowbit.philox import Key, noise
from lowbit.quantizers.lowering import numbers_of
from lowbit.quantizers.scheme import cast
from lowbit.quantizers.spec import find_format
from lowbit.rounding.ieee754 import nearest_even
from lowbit.rounding.rounding import Rounding
from lowbit.rounding.stochastic import stochastic
from lowbit.testing.exact import DETERMINISTIC as NAMES
from lowbit.testing.formats import probes, same_bits

DETERMINISTIC: tuple[Rounding, ...] = tuple(catalog.find("rounding", name) for name in NAMES)


@pytest.mark.parametrize(
    "name, rounding, way",
    [
        ("float8_e4m3fn", "nearest_even", FLOAT), ("float8_e5m2", "nearest_even", FLOAT),
        ("float4_e2m1fn", "nearest_even", FLOAT),
        ("float16", "nearest_even", FLOAT), ("bfloat16", "nearest_even", WIDE), ("e8m3", "nearest_even", WIDE),
        ("int8", "nearest_even", FIXED),
        ("ternary_element", "nearest_even", FIXED), ("q1.6", "nearest_even", FIXED), ("float8_e4m3fn", "stochastic", FLOAT),
        ("bfloat16", "stochastic", WIDE), ("float8_e4m3fn", "toward_zero", LOOKUP), ("posit8_1", "nearest_even", LOOKUP),
        ("float8_e8m0fnu", "nearest_even", LOOKUP), ("nf4_element", "nearest_even", SHORT), ("e3m0f", "nearest_even", SHORT),
    ],
)  # fmt: skip
def test_the_way_taken(name: str, rounding: str, way: int, cpu: Any) -> None:
    numbers = numbers_of(find_format(name), catalog.find("rounding", rounding), "saturate")
    assert not isinstance(numbers, str)
    assert codec(numbers).value_method == way


def table(kind: str) -> tuple[float, ...]:
    """Numbers of a user's format."""
    draw = random.Random(kind)
    if kind == "normal":
        return tuple(draw.gauss(0, 1) for _ in range(256))
    if kind == "cluster":
        return (*(1.0 + k * 2.0**-20 for k in range(200)), -1.0, 0.0, 1e30)
    if kind == "wide":
        return tuple(draw.choice((-1, 1)) * 2.0 ** draw.uniform(-140, 120) for _ in range(255))
    if kind == "positive":
        return tuple(draw.random() + 0.1 for _ in range(33))
    return tuple(-draw.random() - 0.1 for _ in range(17))


@pytest.mark.parametrize("kind", ["normal", "cluster", "wide", "positive", "negative"])
@pytest.mark.parametrize("rounding", [*DETERMINISTIC, stochastic], ids=str)
def test_tables_of_users(kind: str, rounding: Rounding, cpu: Any) -> None:
    fmt = TableFormat(kind, table(kind))
    q = cast(fmt, "saturate", rounding)
    bits = torch.randint(-(2**31), 2**31 - 1, (20000,), generator=torch.Generator().manual_seed(1)).int().view(torch.float32)
    x = torch.cat([probes(fmt), bits, torch.randn(5000, generator=torch.Generator().manual_seed(2)), 1 + torch.rand(5000) * 2e-4])
    words = noise(Key(1, kind), tuple(x.shape)) if rounding is stochastic else None
    with backend("reference"):
        expected = q.quantize(x, noise=words)
        numbers = expected.dequantize()
    for target in cpu.targets():
        assert cpu.use_target(target)
        with backend("cpu"):
            found = q.quantize(x, noise=words)
            assert torch.equal(found.codes, expected.codes), target
            assert bool(same_bits(found.dequantize(), numbers).all()), target


def test_cut_points_that_share_a_bucket_are_searched(cpu: Any) -> None:
    numbers = numbers_of(TableFormat("cluster", table("cluster")), nearest_even, "saturate")
    assert not isinstance(numbers, str)
    assert codec(numbers).value_method == SEARCH
    assert buckets(numbers.cuts.numpy()).search_step > 0


@pytest.mark.parametrize("cuts", [[0.0], [1e-45], [-1e-45], [np.inf], [-3.4028235e38], [0.0, 1e-45], [-1.0, 1.0], [-2.0, -1.0, 0.0]])
def test_buckets_count_the_cut_points_below(cuts: list[float]) -> None:
    found = buckets(np.array(cuts, dtype=np.float32))
    assert found.search_step == 0
    numbers = np.array(
        [1e-45, -1e-45, 3e-45, -3e-45, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 2.0, -2.0, 3e38, -3e38, np.inf, -np.inf], dtype=np.float32
    )
    for y in numbers:
        magnitude = int(np.abs(y).view(np.uint32))
        inside = min(max(magnitude, found.low), found.high) - found.low
        entry = int(found.entries[(inside >> found.shift) + (found.number if np.signbit(y) else 0)])
        reached = (inside & ((1 << found.shift) - 1)) >= entry >> 16
        rank = (entry >> 8 if reached else entry) & 255
        assert rank == int((np.array(cuts, dtype=np.float32) <= y).sum()), y
