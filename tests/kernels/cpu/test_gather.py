"""Rows of a packed weight are the rows of the dequantized one, bit for bit, in every width and form of scale."""

import pytest
import torch

from lowbit.errors import ShapeError
from lowbit.kernels.cpu import gather
from lowbit.kernels.cpu.linear_layout import prepare
from lowbit.quantizers.linear_lowering import linear_spec
from lowbit.quantizers.spec import quantizer

SPECS = [
    "ternary", "int2 g16", "int3 g32", "int4 g32", "nvfp4", "mxfp4", "nf4_single", "int5 g32", "int6 g32 scale=float32",
    "int8", "mxfp8", "hif4", "table(-1;0;0.25;1;2;3;4;5;6) g24",
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("count", [1, 3, 40])
def test_rows_are_those_of_the_dequantized_weight(cpu, threads, spec, count):
    W = torch.randn(37, 192, generator=torch.Generator().manual_seed(0))
    tensor = quantizer(spec).quantize(W)
    packed = prepare(linear_spec(tensor))
    index = torch.randint(37, (count,), generator=torch.Generator().manual_seed(count))
    for number in (1, 3):
        with threads(number):
            assert torch.equal(gather.run(index, packed), tensor.dequantize()[index])
    assert gather.run(index.int()[None, :, None], packed).shape == (1, count, 1, 192)


def test_zero_points_move_by_offsets(cpu):
    tensor = quantizer("int4 g32 asym").quantize(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)))
    spec = linear_spec(tensor)
    assert bool((spec.offset != 0).all())
    assert torch.equal(gather.run(torch.arange(5), prepare(spec)), spec.dequantize())
    torch.testing.assert_close(spec.dequantize(), tensor.dequantize(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_that_is_not_there_is_named(cpu, row):
    packed = prepare(linear_spec(quantizer("int4 g32").quantize(torch.ones(5, 32))))
    with pytest.raises(ShapeError, match=f"row {row} of a weight with 5 rows"):
        gather.run(torch.tensor([0, row]), packed)
    assert gather.refuses(torch.tensor([0.5]), packed) == "torch.float32 on cpu are not integers on the CPU"
    assert gather.refuses(torch.tensor([0]), "why not") == "why not"
