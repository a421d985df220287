"""Weight: a sum of terms, packed and read back."""

import pytest
import torch

from lowbit.errors import CheckpointError, ShapeError, UnsupportedError
from lowbit.quantizers.nvfp4 import nvfp4
from lowbit.quantizers.spec import quantizer
from lowbit.quantizers.weight import Form, Indexed, LowRank, Weight, forms, unpack
from lowbit.testing.quantizers import sample

W = sample((16, 64))
ROWS = torch.tensor([3, 9])
COLUMNS = torch.tensor([0, 33, 63])


def terms():
    return (
        nvfp4.quantize(W),
        LowRank(sample((16, 2), 1), sample((2, 64), 2)),
        Indexed(ROWS, sample((2, 64), 3), 0, (16, 64)),
        Indexed(COLUMNS, sample((16, 3), 4), 1, (16, 64)),
    )


def test_the_sum_is_that_of_the_terms_in_order():
    quantized, low_rank, rows, columns = terms()
    dense = quantized.dequantize() + low_rank.left @ low_rank.right
    full = torch.zeros(16, 64)
    full[ROWS] = rows.values
    dense = dense + full
    full = torch.zeros(16, 64)
    full[:, COLUMNS] = columns.values
    assert torch.equal(Weight(terms()).dequantize(), dense + full)


def test_a_residual_lowers_the_error():
    """Each further term quantizes what the terms before left over."""
    errors, found = [], ()
    for _ in range(3):
        left = W if not found else W - Weight(found).dequantize()
        found = (*found, quantizer("int3 g16").quantize(left))
        errors.append((W - Weight(found).dequantize()).square().sum().item())
    assert errors[1] < 0.1 * errors[0] and errors[2] < 0.1 * errors[1]


def test_it_packs_and_comes_back():
    weight = Weight(terms(), (nvfp4, None, None, None))
    parts = weight.packed()
    assert sorted(parts) == ["1.left", "1.right", "2.index", "2.values", "3.index", "3.values", "codes", "scale.codes", "scale.scale"]
    assert weight.nbytes == nvfp4.nbytes((16, 64)) + 4 * (32 + 128) + 4 * (2 + 128) + 4 * (3 + 48)
    assert [form.kind for form in forms(weight)] == ["quantized", "low rank", "rows", "columns"]
    back = unpack(forms(weight), parts, (16, 64))
    assert torch.equal(back.dequantize(), weight.dequantize())


def test_factors_may_be_quantized():
    left, right = quantizer("int8 row").quantize(sample((16, 2))), quantizer("int8 row").quantize(sample((2, 64)))
    term = LowRank(left, right)
    assert term.shape == (16, 64)
    assert torch.equal(term.dequantize(), left.dequantize() @ right.dequantize())
    assert sorted(term.packed()) == ["left.codes", "left.scale.codes", "rank", "right.codes", "right.scale.codes"]


def test_errors():
    with pytest.raises(ShapeError, match=r"the terms of a weight have one shape, got \[\(16, 64\), \(16, 65\)\]"):
        Weight((nvfp4.quantize(W), LowRank(torch.ones(16, 1), torch.ones(1, 65))))
    with pytest.raises(ShapeError, match="the terms of a weight have one shape, got no term"):
        Weight(())
    weight = Weight(terms(), (nvfp4, None, None, None))
    stored, parts = forms(weight), weight.packed()
    with pytest.raises(CheckpointError, match="term 1 is 'low rank' and its parts are"):
        unpack(stored, {k: v for k, v in parts.items() if k != "1.left"}, (16, 64))
    with pytest.raises(CheckpointError, match=r"the part 'right' is \(2, 64\), a low rank term of \(16, 64\) needs \(3, 64\)"):
        unpack(stored, {**parts, "1.left": torch.ones(16, 3)}, (16, 64))
    with pytest.raises(CheckpointError, match=r"rows 3..9 of a matrix of shape \(8, 64\)"):
        unpack([Form("rows")], {"index": ROWS.int(), "values": torch.ones(2, 64)}, (8, 64))
    with pytest.raises(CheckpointError, match="term 0 is 'lattice'"):
        unpack([Form("lattice")], {"index": ROWS.int()}, (8, 64))


def test_quantized_parts_come_back():
    """Every place where a term may hold a quantized tensor, with scales of several levels."""
    int8, sign = quantizer("int8 row"), (W >= 0).to(torch.uint8)
    left, right = sample((16, 3), 5), sample((3, 64), 6)
    weight = Weight(
        (
            quantizer("int3 g16").quantize(W),
            Indexed(ROWS, nvfp4.quantize(sample((2, 64), 3)), 0, (16, 64), nvfp4),
            Indexed(COLUMNS, int8.quantize(sample((16, 3), 4)), 1, (16, 64), int8),
            LowRank(int8.quantize(left), quantizer("e4m3fn tensor").quantize(right), None, (int8, quantizer("e4m3fn tensor"))),
            LowRank(left.half(), right.half(), sign),
            LowRank(int8.quantize(left), right, sign, (int8, None)),
        ),
        (quantizer("int3 g16"), *[None] * 5),
    )
    parts = weight.packed()
    assert [f.kind for f in forms(weight)] == ["quantized", "rows", "columns", "low rank", "signed low rank", "signed low rank"]
    back = unpack(forms(weight), parts, (16, 64))
    assert torch.equal(back.dequantize(), weight.dequantize())
    again = back.packed()
    assert parts.keys() == again.keys() and all(torch.equal(parts[k], again[k]) for k in parts)
    assert forms(back) == forms(weight)
    signed = weight.terms[4].dequantize()
    assert torch.equal(signed, (left.half().float() @ right.half().float()) * (2.0 * sign - 1))


def test_a_quantized_part_without_its_quantizer_is_named():
    with pytest.raises(UnsupportedError, match="a rows term with quantized parts needs its quantizer to be packed"):
        forms(Weight((Indexed(ROWS, nvfp4.quantize(sample((2, 64), 3)), 0, (16, 64)),)))
