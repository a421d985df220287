"""ACIQ: the published multiples, and that the clip is the best one for data of its law."""

import pytest
import torch

from lowbit.errors import UnsupportedError
from lowbit.formats.minifloat import float4_e2m1fn
from lowbit.quantizers.spec import quantizer
from lowbit.scaling.aciq import aciq_normal, clipping


@pytest.mark.parametrize(("law", "published"), [
    ("laplace", {2: 2.83, 3: 3.89, 4: 5.03, 5: 6.2, 6: 7.41, 7: 8.64, 8: 9.89}),
    ("normal", {2: 1.71, 3: 2.15, 4: 2.55, 5: 2.93, 6: 3.28, 7: 3.61, 8: 3.92}),
])  # fmt: skip
def test_multiples_of_the_paper(law, published):
    for bits, multiple in published.items():
        assert clipping(law, 2**bits) == pytest.approx(multiple, abs=0.011)


@pytest.mark.parametrize("law", ["normal", "laplace"])
def test_no_other_clip_is_much_better(law):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 200_000, generator=g)
    if law == "laplace":
        x = x.sign() * torch.empty(1, 200_000).exponential_(generator=g)

    def error(rule):
        return (quantizer(f"int4 tensor {rule} scale=float32").quantize(x).dequantize() - x).square().mean().item()

    best = min(error(f"clip:{c / 10}") for c in range(10, 90))
    assert error(f"aciq_{law}") < 1.1 * best < 0.8 * error("absmax")


def test_uneven_steps_are_refused():
    with pytest.raises(UnsupportedError, match="aciq_normal needs a format of equal steps"):
        aciq_normal(torch.ones(1, 4), float4_e2m1fn)
