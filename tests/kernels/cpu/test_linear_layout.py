"""The CPU's layout of packed weights: reversible, in the smallest exact form of its scales, in parts without a copy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lowbit.kernels.cpu import qlinear
from lowbit.kernels.cpu.linear_layout import BYTE, parts_of, prepare, unprepare
from lowbit.kernels.linear_spec import LinearSpec
from lowbit.testing.linears import random_linear


@pytest.mark.parametrize("scales, store", [("float32", 0), ("bfloat16", 1), ("float16", 2), ("e8m0", BYTE), ("e4m3", BYTE)])
def test_scales_take_their_smallest_form(scales: str, store: int) -> None:
    w = random_linear(40, 512, 4, 16, scales=scales)
    w.scale[3, 5] = 0.0
    packed = prepare(w)
    assert packed.scale.store == store
    assert torch.equal(packed.scale.float(40), w.scales)


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_come_back(bits: int) -> None:
    for kind in ("table", "signed", "unsigned", "fp8")[: 4 if bits == 8 else 3]:
        for rows, columns, group in ((1, 1, 1), (17, 33, 5), (40, 100, 100)):
            w = random_linear(rows, columns, bits, group, kind=kind, offset=True)
            back = unprepare(prepare(w))
            assert torch.equal(back.codes, w.codes)
            assert torch.equal(back.scales, w.scales)
            assert torch.equal(back.dequantize(), w.dequantize())


@pytest.mark.parametrize("scales", ["float32", "e4m3"])
def test_parts_of_a_weight(scales: str, cpu: Any) -> None:
    """Each part is the product with its rows, on the memory of the whole."""
    w = random_linear(96, 64, 4, 16, scales=scales, offset=True)
    packed, x = prepare(w), torch.randn(3, 64)
    parts = parts_of(packed, 3)
    for i, part in enumerate(parts):
        assert torch.equal(qlinear.run(x, part), qlinear.run(x, packed)[:, 32 * i : 32 * i + 32])
        assert part.words.untyped_storage().data_ptr() == packed.words.untyped_storage().data_ptr()
    assert parts_of(packed, 1) == (packed,)


def test_layout_by_hand() -> None:
    """Two rows of 4-bit codes: a word holds eight columns of one row, the first in its low bits; rows lie side by side."""
    codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [15, 0, 0, 0, 0, 0, 0, 9]], dtype=torch.uint8)
    packed = prepare(LinearSpec(codes, 4, torch.arange(16.0), torch.ones(2, 1), 8))
    assert packed.words.shape == (1, 1, 1, 1, 16)
    assert packed.words.flatten()[:2].tolist() == [0x87654321 - (1 << 32), 0x9000000F - (1 << 32)]


def test_bytes_are_counted(cpu: Any) -> None:
    packed = prepare(random_linear(64, 256, 4, 32, scales="e8m0"))
    assert packed.nbytes == 64 * 128 + 64 * 8 + 64 * 4 + 1024  # codes, exponents, a factor a row, the table
