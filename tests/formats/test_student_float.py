"""SF4 is built from the quantiles of t(5) as NF4 is from normal ones; the same construction gives NF4's own numbers."""

import numpy as np
import pytest

from lowbit.formats.normal_float import nf4
from lowbit.formats.student_float import sf4
from lowbit.quantizers.spec import quantizer

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize(("fmt", "law"), [(sf4, stats.t(5)), (nf4, stats.norm())])
def test_numbers_are_quantiles(fmt, law):
    share = (1 / 32 + 1 / 30) / 2
    quantiles = np.concatenate([law.ppf(np.linspace(share, 0.5, 8)), law.ppf(np.linspace(0.5, 1 - share, 9))[1:]])
    np.testing.assert_allclose(fmt.values, quantiles / quantiles.max(), atol=2e-7)


def test_it_beats_nf4_on_heavy_tails():
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(stats.t(5).rvs((2000, 128), random_state=0)).float()
    student, normal = ((quantizer(f"{name} g128").quantize(x).dequantize() - x).abs().mean().item() for name in ("sf4", "nf4_element"))
    assert student < 0.97 * normal
