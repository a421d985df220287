"""Bit streams of the extension against packing.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lowbit.kernels.op import PACK, UNPACK, backend
from lowbit.packing import pack, unpack


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 65535, 65536 * 3 + 5])
def test_the_bytes_are_those_of_the_reference(bits: int, count: int, cpu: Any, threads: Any) -> None:
    codes = torch.randint(0, 1 << bits, (count,), generator=torch.Generator().manual_seed(bits)).to(
        torch.uint8 if bits <= 8 else torch.int32
    )
    data = pack(codes, bits)
    with backend("cpu"), threads(2):
        for target in cpu.targets():
            assert cpu.use_target(target)
            packer, unpacker = PACK.kernel(codes, bits), UNPACK.kernel(data, bits, count)
            assert packer is not None and unpacker is not None
            assert torch.equal(packer.run(codes, bits), data)
            assert torch.equal(unpacker.run(data, bits, count), codes)
    assert torch.equal(unpack(data, bits, count), codes)


def test_what_packing_refuses() -> None:
    assert "not 1 to 16" in PACK.plan(torch.zeros(4, dtype=torch.int32), 17)[1]["cpu"]
    assert "int32" in PACK.plan(torch.zeros(4, dtype=torch.int32), 4)[1]["cpu"]
    assert "bytes" in UNPACK.plan(torch.zeros(4, dtype=torch.uint8), 4, 9)[1]["cpu"]
