"""quantize replaces what was asked for by what the quantizer says, tells how far it is, and changes nothing when it fails."""

import copy

import pytest
import torch
from torch import nn

import lowbit
from lowbit.errors import DataError, NonFiniteError, ShapeError, UnknownName, UnsupportedError
from lowbit.nn import Linear
from lowbit.nn.packed import PackedWeight
from lowbit.solvers.rtn import RTN

TEXT = "def f(x):\n    return x\n"


@pytest.fixture
def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    ).eval()  # fmt: skip


@pytest.fixture
def x():
    return torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("weights", ["int4", "fp8", "ternary", "int8 g4"])
def test_a_convolutional_network_computes_on_the_dequantized_weights(cnn, x, weights):
    expected = copy.deepcopy(cnn)
    for layer in expected:
        if hasattr(layer, "weight") and layer.weight.ndim > 1:
            layer.weight.data = lowbit.fake_quantize(layer.weight.data.flatten(1), weights).reshape(layer.weight.shape)
    assert lowbit.quantize(cnn, weights) is cnn
    assert torch.equal(cnn(x), expected(x))


def test_overrides_and_ignored_layers(cnn):
    lowbit.quantize(cnn, "int8", ignore=["0"], override={"Conv2d": "int4 g8", "7": "nvfp4"})
    assert isinstance(cnn[0], nn.Conv2d)
    specs = [term["spec"] for i in (3, 7) for term in cnn[i].weight.describe()]
    assert specs == ["int4 g8", "nvfp4"]


def test_a_solver_may_be_a_value(cnn, x):
    by_name, by_value = copy.deepcopy(cnn), copy.deepcopy(cnn)
    lowbit.quantize(by_name, "int4", solver="rtn")
    lowbit.quantize(by_value, lowbit.quantizer("int4"), solver=RTN())
    assert torch.equal(by_name(x), by_value(x))


def test_activations_reach_linear_layers_only(cnn, x):
    lowbit.quantize(cnn, "int8", activations="fp8")
    assert isinstance(cnn[7], Linear)
    assert cnn[7].activations == lowbit.quantizer("fp8")
    assert not hasattr(cnn[0], "activations")
    cnn(x)


def test_the_seed_decides_stochastic_roundings(cnn, x):
    spec = "int4 round=stochastic"
    outputs = [lowbit.quantize(copy.deepcopy(cnn), spec, seed=seed)(x) for seed in (1, 1, 2)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_every_event_is_told(llama_folder):
    model = lowbit.open_model(str(llama_folder()))
    events = []
    lowbit.quantize(model, "int8", progress=events.append)
    assert {e.stage for e in events} == {"quantize"}
    assert [e.done for e in events] == list(range(events[0].total + 1))
    assert len({e.total for e in events}) == 1
    assert [e.detail for e in events[:-1]] == ["model.layers.0", "model.layers.1"]


def test_the_language_model_itself_is_returned(llama_folder):
    model = lowbit.open_model(str(llama_folder()))
    before = model.logits(model.encode(TEXT)[None])
    assert lowbit.quantize(model, "int8") is model
    after = model.logits(model.encode(TEXT)[None])
    assert 0 < (after - before).norm() < 0.05 * before.norm()
    assert model.generate("de", 4)


@torch.no_grad()
def test_more_bits_are_nearer(cnn, x):
    exact = cnn(x)
    errors = [float((lowbit.quantize(copy.deepcopy(cnn), f"int{bits}")(x) - exact).norm()) for bits in (2, 3, 4, 6, 8)]
    assert errors == sorted(errors, reverse=True)


FAILURES = {
    "blocks": ({"weights": "int4 g64"}, ShapeError, r"layer 0 of shape \(16, 36\)"),
    "pattern": ({"weights": "int4", "only": ["nothing"]}, UnknownName, "--only 'nothing' matches none"),
    "data": ({"weights": "int4", "solver": "gptq"}, DataError, "Sequential has no tokenizer: give data"),
    "activations": ({"weights": "int4", "activations": "int8 g3"}, ShapeError, "--activations does not fit the 128 inputs of layer 7"),
}


@pytest.mark.parametrize(("options", "error", "message"), FAILURES.values(), ids=FAILURES)
def test_a_refusal_changes_nothing(cnn, x, options, error, message):
    before, modules = cnn(x), list(cnn.modules())
    with pytest.raises(error, match=message):
        lowbit.quantize(cnn, **options)
    assert list(cnn.modules()) == modules
    assert torch.equal(cnn(x), before)


def test_weights_that_are_no_numbers_change_nothing(cnn):
    cnn[7].weight.data[0, 0] = float("nan")
    modules = list(cnn.modules())
    numbers = [p.detach().clone() for p in cnn.parameters()]
    with pytest.raises(NonFiniteError, match="7.weight holds 1 NaN and 0 Inf; repair .*: --ignore lm_head --ignore 7$"):
        lowbit.quantize(cnn, "int4")
    assert list(cnn.modules()) == modules
    torch.testing.assert_close(list(cnn.parameters()), numbers, rtol=0, atol=0, equal_nan=True)


def test_a_failure_half_way_changes_nothing(cnn, x):
    class Fails(RTN):
        def solve(self, W, quantizer, stats, key):
            if key.tensor == "7":
                raise UnsupportedError("the last layer is too much")
            return super().solve(W, quantizer, stats, key)

    before, modules = cnn(x), list(cnn.modules())
    with pytest.raises(UnsupportedError, match="the last layer is too much"):
        lowbit.quantize(cnn, "int4", solver=Fails())
    assert list(cnn.modules()) == modules
    assert torch.equal(cnn(x), before)


def test_a_quantized_model_has_nothing_left_but_what_was_ignored(cnn):
    lowbit.quantize(cnn, "int8", ignore=["7"])
    with pytest.raises(UnknownName, match="no layer is left to quantize: 1 could be"):
        lowbit.quantize(cnn, "int8", ignore=["7"])
    lowbit.quantize(cnn, "int4")
    assert [m.describe()[0]["spec"] for m in cnn.modules() if isinstance(m, PackedWeight)] == ["int8", "int8", "int4"]


def test_data_may_be_the_name_of_one_text():
    def quantized(data):
        model = lowbit.open_model("builtin")
        only = ["model.layers.0.mlp.up_proj"]
        return lowbit.quantize(model, "int4 g64", solver="gptq", only=only, data=data, sequences=4, length=64).module.state_dict()

    one, several = quantized("builtin"), quantized(["builtin"])
    assert all(torch.equal(one[name], several[name]) for name in several)
