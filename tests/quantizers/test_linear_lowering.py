"""Every quantizer's matrix and its flat record decode alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lowbit.kernels.linear_spec import LinearSpec
from lowbit.quantizers.grid import QTensor
from lowbit.quantizers.linear_lowering import linear_spec
from lowbit.quantizers.spec import quantizer


def lowered(spec: str, rows: int = 64, columns: int = 256) -> tuple[QTensor, LinearSpec]:
    W = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.01, 3, columns)
    q = quantizer(spec).quantize(W)
    found = linear_spec(q)
    assert isinstance(found, LinearSpec), found
    return q, found


@pytest.mark.parametrize(
    "spec, bits, group",
    [
        ("nvfp4", 4, 16), ("mxfp4", 4, 32), ("mxfp8", 8, 32), ("mxfp6_e2m3", 6, 32), ("int4 g32", 4, 32), ("int4 g128", 4, 128),
        ("int3 g64", 3, 64), ("int8 row", 8, 256), ("int8", 8, 256), ("nf4_single", 4, 64),
        ("nf4", 4, 64), ("fp8_tile", 8, 128), ("hif4", 5, 64),
        ("ternary", 2, 256), ("float8_e4m3fn row", 8, 256), ("table(-1;-0.3;0.1;2) g16", 2, 16), ("q4_0", 4, 32), ("q8_0", 8, 32),
        ("q6_k", 6, 16), ("q3_k", 3, 16), ("tq2_0", 2, 256), ("iq4_nl", 4, 32), ("ggml_mxfp4", 4, 32),
    ],
)  # fmt: skip
def test_without_a_zero_point_the_bits_are_those_of_dequantize(spec: str, bits: int, group: int) -> None:
    q, found = lowered(spec)
    assert (found.bits, found.group) == (bits, group)
    assert torch.equal(found.dequantize(), q.dequantize())


@pytest.mark.parametrize("spec", ["int4 g32 ragged", "int4 g32 asym ragged", "nvfp4 ragged"])
def test_blocks_may_be_wider_than_the_matrix(spec: str) -> None:
    q, found = lowered(spec, 5, 12)
    assert found.group == 12
    torch.testing.assert_close(found.dequantize(), q.dequantize(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", ["int4 g32 asym", "int8 g128 asym", "int2 g16 asym", "q4_1", "q2_k", "q4_k", "q5_k"])
def test_zero_points_and_minima_become_offsets(spec: str) -> None:
    q, found = lowered(spec)
    assert found.offset is not None
    # -zero * scale is rounded once, and so is the sum: each by half a step of a number of at most this size
    size = found.spread((found.scales * found.table.abs().max()).abs() + found.offset.abs())
    assert bool(((found.dequantize().double() - q.dequantize().double()).abs() <= 3 * 2.0**-24 * size.double()).all())


def test_a_second_level_for_the_whole_tensor_stays_a_factor() -> None:
    _, found = lowered("nvfp4")
    assert found.factor is not None and len(found.factor.unique()) == 1
    assert torch.equal(found.scale, found.scale.to(torch.float8_e4m3fn).float())
    _, found = lowered("nf4")  # its second level crosses rows
    assert found.factor is None and found.offset is None


def test_flat_blocks_that_rows_cut() -> None:
    q, found = lowered("int4 flat96", rows=6, columns=64)
    assert found.group == 32
    assert torch.equal(found.dequantize(), q.dequantize())


def test_hifloat4_moves_its_exponents_into_the_codes() -> None:
    _, found = lowered("hif4")
    assert found.table.abs().unique().tolist() == [k / 4 for k in (*range(8), 8, 10, 12, 14, 16, 20, 24, 28)]
    assert torch.equal(found.scales, found.scales.bfloat16().float())  # 6 bits of exponent, 2 of mantissa


@pytest.mark.parametrize(
    "spec, word", [("bitmod4 g128", "alternative tables"), ("afpq4 g128", "negative"), ("bfloat16", "16 bits"), ("posit16_1", "16 bits")]
)
def test_what_does_not_fit_says_why(spec: str, word: str) -> None:
    found = linear_spec(quantizer(spec).quantize(torch.randn(64, 256)))
    assert isinstance(found, str)
    assert word in found


def test_other_orders_and_shapes_are_refused() -> None:
    q = quantizer("int4 g32").quantize(torch.randn(8, 64))
    assert "order" in str(linear_spec(QTensor(q.codes, replace(q.grid, order=torch.arange(64)))))
    assert "matrix" in str(linear_spec(quantizer("int4 g32").quantize(torch.randn(2, 8, 64))))
