"""Rows of packed weights against the dense weight, bit for bit."""

from __future__ import annotations

import pytest
import torch

from lowbit.kernels.linear_spec import LinearSpec
from lowbit.kernels.op import GATHER
from lowbit.kernels.triton import linear_layout
from lowbit.quantizers.linear_lowering import linear_spec
from lowbit.quantizers.spec import quantizer


@pytest.mark.parametrize(
    "spec", ["int4 g128", "int4 g64 asym", "nvfp4", "mxfp4", "mxfp8", "int8 row", "fp8 row", "nf4_element g64", "e2m1 g128"]
)
def test_rows_are_those_of_the_dense_weight(spec: str, interpreter: None) -> None:
    told = linear_spec(quantizer(spec).quantize(torch.randn(40, 640, generator=torch.Generator().manual_seed(4))))
    assert isinstance(told, LinearSpec)
    index = torch.tensor([[3, 39, 3], [0, 17, 8]])
    kernel = GATHER.kernel(index, linear_layout.run(told)) if spec != "fp8 row" else GATHER.kernel(index.int(), linear_layout.run(told))
    assert kernel is not None and kernel.__name__ == "lowbit.kernels.triton.gather"
    assert torch.equal(kernel.run(index, linear_layout.run(told)), told.dequantize()[index])


def test_scales_that_were_rounded_are_refused(interpreter: None) -> None:
    told = linear_spec(quantizer("int4 g32 scale=float32").quantize(torch.randn(16, 64)))
    assert isinstance(told, LinearSpec)
    assert "rounded" in GATHER.plan(torch.tensor([1]), linear_layout.run(told))[1]["triton"]
