"""FP4 with ue5m3 scales needs no tensor scale: it keeps NVFP4's error over the range of the scale format."""

import pytest
import torch

from lowbit.quantizers.spec import quantizer


@pytest.mark.parametrize("factor", [2.0**-8, 1.0, 2.0**12])
def test_the_error_does_not_depend_on_the_tensors_size(factor):
    x = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    errors = [(quantizer(s).quantize(x * factor).dequantize() / factor - x).square().mean() for s in ("fp4_ue5m3", "nvfp4")]
    found = [(e / x.square().mean()).item() for e in errors]
    assert found[0] == pytest.approx(found[1], rel=0.03)
    assert quantizer("fp4_ue5m3").nbytes((2000, 64)) == 2000 * 64 // 2 + 2000 * 4
