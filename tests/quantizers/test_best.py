"""Best of several schemes: the choice is the argmin, it is stored, weighs by importance, and parses."""

import pytest
import torch

from lowbit.errors import CheckpointError, ShapeError, SpecError
from lowbit.quantizers.spec import quantizer, text

X = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
SPEC = "best(e1m2f row;float4_e2m1fn row;e3m0f row)"


POWERS = X.sign() * torch.exp2(-(3 * X.abs()).round().clamp(max=6))


@pytest.mark.parametrize("x", [X, X.pow(3), X.clamp(-1, 1), POWERS])
def test_no_option_is_better(x):
    chosen = quantizer(SPEC).quantize(x)
    errors = [(o.quantize(x).dequantize() - x).double().square().sum() for o in quantizer(SPEC).options]
    assert (chosen.dequantize() - x).double().square().sum() == min(errors)
    assert torch.equal(chosen.dequantize(), quantizer(SPEC).options[chosen.choice].quantize(x).dequantize())


def test_data_decide():
    assert [quantizer(SPEC).quantize(x).choice for x in (X.clamp(-1, 1), X, POWERS)] == [0, 1, 2]


def test_importance_weighs():
    x = torch.cat((X.clamp(-1, 1), POWERS * 1e-3))
    weights = torch.ones(64, 1)
    weights[32:] = 1e12
    assert quantizer(SPEC).quantize(x).choice == 0 and quantizer(SPEC).quantize(x, importance=weights).choice == 2


def test_it_packs_and_prints():
    best = quantizer(SPEC)
    q = best.quantize(POWERS)
    assert q.nbytes == best.nbytes((32, 128)) == best.options[0].nbytes((32, 128)) + 1
    assert best.unpack(q.packed(), (32, 128)).choice == 2
    assert text(best) == SPEC and quantizer(text(best)) == best
    nested = quantizer("best(e2m1 g16 scale=(e4m3fn tensor);int4 g16 scale=(e4m3fn tensor))")
    assert quantizer(text(nested)) == nested
    with pytest.raises(CheckpointError, match=r"the part 'choice' is \[3\]; it is one number below 3"):
        best.unpack({**q.packed(), "choice": torch.tensor([3], dtype=torch.uint8)}, (32, 128))


@pytest.mark.parametrize(("spec", "message"), [
    ("best(int4 row)", "the best of 1 schemes; 2 to 256"),
    ("best(int4 row;ifairy)", "chooses among schemes without noise; IFairy"),
    ("best(int4 row;int4 row round=stochastic)", "chooses among schemes without noise"),
    ("best(int4 row;nonsense)", "nonsense"),
])  # fmt: skip
def test_bad_options_are_named(spec, message):
    with pytest.raises(SpecError, match=message):
        quantizer(spec)


def test_options_of_other_sizes_are_refused():
    with pytest.raises(ShapeError, match=r"schemes of one size; for shape \(32, 128\) they take \[1600, 2112\] bytes"):
        quantizer("best(int4 row;int3 row)").nbytes((32, 128))
