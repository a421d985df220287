"""The layout of a weight for tensor cores: codes and scales come back, and what has none says why."""

from __future__ import annotations

import pytest
import torch

from lowbit.errors import ShapeError
from lowbit.kernels.linear_spec import LinearSpec
from lowbit.kernels.triton.linear_layout import refuses, run, unprepare
from lowbit.quantizers.linear_lowering import linear_spec
from lowbit.quantizers.spec import quantizer

SPECS = (
    "int4 g128", "int4 g64 asym", "int3 g64", "uint4 g64", "nvfp4", "mxfp4", "nf4_element g64", "e2m1 row", "int8 row", "fp8 row",
    "mxfp8", "table(-1;-0.4;0.3;0.9) g64", "int2 g32 scale=float8_e8m0fnu",
)  # fmt: skip


def spec_of(spec: str, rows: int = 40, columns: int = 256) -> LinearSpec:
    W = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    told = linear_spec(quantizer(spec).quantize(W))
    assert isinstance(told, LinearSpec)
    return told


@pytest.mark.parametrize("spec", SPECS)
def test_codes_scales_and_offsets_come_back(spec: str, interpreter: None) -> None:
    told = spec_of(spec)
    packed = run(told)
    back = unprepare(packed)
    assert torch.equal(back.codes, told.codes)
    assert torch.equal(back.scales, told.scales)
    assert (back.offset is None) == (told.offset is None)
    assert torch.equal(back.dequantize(), told.dequantize())
    assert packed.shape == (40, 256)


def test_a_lane_holds_what_it_multiplies(interpreter: None) -> None:
    """Column 8 t + 4 s + 2 c + p of chunk k and row g + 8 h: half p of register c + 2 h of word 2 k + s of lane 4 g + t."""
    codes = torch.arange(16 * 64, dtype=torch.int64).remainder(13).to(torch.uint8).view(16, 64)
    told = LinearSpec(codes, 4, torch.arange(16.0) - 8, torch.ones(16, 1), 64)
    words = run(told).words
    for g, t, k, s, h, c, p in ((3, 2, 1, 0, 1, 1, 0), (7, 3, 0, 1, 0, 1, 1), (0, 0, 1, 1, 1, 0, 1)):
        word = int(words[0, 0, 4 * g + t, 2 * k + s]) & 0xFFFFFFFF
        assert word >> (4 * (c + 2 * h) + 16 * p) & 15 == codes[g + 8 * h, 32 * k + 8 * t + 4 * s + 2 * c + p]


@pytest.mark.parametrize(
    "spec, columns, reason",
    [
        ("int4 g48", 240, "not a multiple of 64"),
        ("int4 g8", 256, "groups of 8"),
        ("int4 g32 asym", 256, "offsets"),
        ("posit8_1 row", 256, "neither"),
    ],
)
def test_what_has_no_layout_says_why(spec: str, columns: int, reason: str, interpreter: None) -> None:
    told = spec_of(spec, columns=columns)
    assert reason in str(refuses(told))
    with pytest.raises(ShapeError, match=reason):
        run(told)


def test_scales_that_bytes_do_not_hold_are_rounded_to_bfloat16(interpreter: None) -> None:
    told = spec_of("int4 g32 scale=float32")
    back = unprepare(run(told))
    assert torch.equal(back.codes, told.codes)
    assert torch.equal(back.scales, told.scales.bfloat16().float())
