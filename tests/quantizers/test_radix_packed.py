"""A scheme in mixed radix has the scheme's numbers in fewer bytes."""

import pytest
import torch

from lowbit.errors import CheckpointError
from lowbit.quantizers.radix_packed import RadixPacked
from lowbit.quantizers.spec import quantizer

x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("spec", "codes"), [("table(-1;0;1) g32", 103), ("table(-2;-1;0;1;2) row", 150), ("int4 g64", 256)])
def test_the_numbers_are_those_of_the_scheme(spec, codes):
    plain = quantizer(spec)
    dense = RadixPacked(plain)
    q = dense.quantize(x)
    assert torch.equal(q.dequantize(), plain.quantize(x).dequantize())
    assert q.packed()["codes"].numel() == codes and dense.nbytes((8, 64)) == q.nbytes <= plain.nbytes((8, 64))
    assert torch.equal(dense.unpack(q.packed(), (8, 64)).dequantize(), q.dequantize())


def test_a_missing_part_is_named():
    with pytest.raises(CheckpointError, match="'codes' is missing"):
        RadixPacked(quantizer("table(-1;0;1) g32")).unpack({}, (8, 64))
