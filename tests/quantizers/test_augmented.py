"""The errors of some channels as channels of their own: one product in one format, true bits, the paper's bound."""

import pytest
import torch

from lowbit.errors import CheckpointError, ShapeError, SpecError
from lowbit.quantizers.augmented import Augmented
from lowbit.quantizers.quantizer import bits_per_element
from lowbit.quantizers.spec import quantizer, text
from lowbit.testing.quantizers import check_quantizer, check_saving

X = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spec", ["augmented(nvfp4;64)", "augmented(mxfp4;32)", "augmented(int4;1)"])
def test_it_is_a_quantizer(spec, tmp_path):
    check_quantizer(quantizer(spec), ((6, 128), (3, 4, 64)))
    check_saving(quantizer(spec), tmp_path)
    assert text(quantizer(spec)) == spec


@pytest.mark.parametrize("spec", ["nvfp4", "mxfp4", "int4 g16"])
def test_one_product_with_columns_that_stand_there_twice(spec):
    """[Q(x), Q(r)] [W, W_last]^T with codes and scales copied, by hand, is the product with what it decodes to."""
    Q, S = quantizer(spec), 64
    W = Q.quantize(torch.randn(24, 128)).dequantize()
    first = Q.quantize(X).dequantize()
    errors = Q.quantize((X - first)[:, -S:]).dequantize()
    wide = torch.cat((first, errors), 1).double() @ torch.cat((W, W[:, -S:]), 1).double().mT
    torch.testing.assert_close(Augmented(Q, S).quantize(X).dequantize().double() @ W.double().mT, wide, rtol=1e-5, atol=1e-5)


def test_true_bits():
    assert bits_per_element(quantizer("augmented(mxfp4;64)"), (32, 256)) == 4.25 * (256 + 64) / 256
    assert bits_per_element(quantizer("augmented(nvfp4;64)"), (4096, 256)) == pytest.approx(4.5 * (256 + 64) / 256, rel=1e-3)


def test_two_stages_of_four_bits_are_about_as_good_as_eight():
    """The paper's bound: the residual of a block is about one step of e2m1, so twice NVFP4 comes close to MXFP8 (e4m3)."""
    error = lambda spec: float((quantizer(spec).quantize(X).dequantize() - X).norm() / X.norm())  # noqa: E731
    assert error("augmented(nvfp4;128)") < 1.1 * error("mxfp8")
    assert error("augmented(nvfp4;128)") < 0.15 * error("nvfp4")
    part = Augmented(quantizer("nvfp4"), 32).quantize(X).dequantize()
    assert torch.equal(part[:, :-32], quantizer("nvfp4").quantize(X).dequantize()[:, :-32])


@pytest.mark.parametrize(("spec", "message"), [
    ("augmented(nvfp4)", "takes a quantizer and a number of channels"),
    ("augmented(nvfp4;0)", "at least 1 channel, not 0"),
    ("augmented(int4 row round=stochastic;8)", "without noise"),
    ("augmented(nonsense;8)", "nonsense"),
])  # fmt: skip
def test_what_does_not_parse_is_named(spec, message):
    with pytest.raises(SpecError, match=message):
        quantizer(spec)


def test_what_does_not_fit_is_named():
    with pytest.raises(ShapeError, match=r"the errors of 200 channels of a tensor \(32, 128\), which has fewer"):
        quantizer("augmented(nvfp4;200)").quantize(X)
    with pytest.raises(ShapeError, match="20 elements, not a multiple of the block 16"):
        quantizer("augmented(nvfp4;20)").nbytes((32, 128))
    q = quantizer("augmented(nvfp4;64)")
    parts = q.quantize(X).packed()
    with pytest.raises(CheckpointError, match="are missing; there are"):
        q.unpack({name: part for name, part in parts.items() if not name.startswith("errors.")}, (32, 128))
