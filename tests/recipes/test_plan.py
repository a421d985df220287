"""The plan: its bytes are the real ones, what does not fit is named with what would, before any work."""

import re
import shlex

import pytest
import torch
from torch import nn

import lowbit
from lowbit.errors import NonFiniteError, ShapeError, SpecError, UnknownName, UnsupportedError
from lowbit.nn.packed import PackedWeight
from lowbit.quantizers.spec import quantizer, text
from lowbit.recipes.plan import check_finite, plan
from lowbit.solvers.rtn import RTN


class Net(nn.Module):
    """Layers whose widths divide by different numbers, a tied table, a convolution and buffers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(24, 96)
        self.conv = nn.Conv1d(96, 96, 2)
        self.norm = nn.BatchNorm1d(96)
        self.register_buffer("mask", torch.ones(7), persistent=False)
        self.up = nn.Linear(96, 160)
        self.down = nn.Linear(160, 96)
        self.lm_head = nn.Linear(96, 24, bias=False)
        self.lm_head.weight = self.table.weight


@pytest.fixture
def net():
    return Net()


def stored_nbytes(model):
    """Bytes of everything in the state dict, each piece of memory once, packed parts as they are."""
    tensors = {t.data_ptr(): t for t in model.state_dict().values()}
    return sum(t.numel() * t.element_size() for t in tensors.values())


CASES = {
    "usual": {"weights": "int4 g32"},
    "nested scales": {"weights": "nvfp4"},
    "asymmetric": {"weights": "int4 g16 asym"},
    "flat": {"weights": "nf4"},
    "ragged": {"weights": "int3 g64 ragged"},
    "tiles": {"weights": "fp8_tile"},
    "three bits": {"weights": "int3 g32 scale=float32"},
    "overrides": {"weights": "ternary", "override": {"up": "int8", "*n*": "mxfp4"}},
    "with the table": {"weights": "int8", "only": ["Linear", "Embedding"]},
    "the table alone": {"weights": "int8", "only": ["Embedding"]},
    "everything": {"weights": "int8", "only": ["Linear", "Embedding", "Conv1d"], "ignore": []},
    "one layer": {"weights": "binary", "only": ["down"]},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_its_bytes_are_those_of_the_quantized_model(net, options):
    made = plan(net, **options)
    assert made.original_nbytes == stored_nbytes(net)
    lowbit.quantize(net, **options)
    packed = {n: m for n, m in net.named_modules() if isinstance(m, PackedWeight)}  # a shared one under its first name
    assert {f"{p.name}.weight": p.nbytes for p in made.held} == {n: m.nbytes for n, m in packed.items()}
    assert made.packed_nbytes == sum(m.nbytes for m in packed.values())
    assert made.nbytes == stored_nbytes(net)


def test_its_shares_are_those_of_its_bytes(net):
    made = plan(net, "int4 g32", only=["Linear"])
    assert made.elements == 2 * 96 * 160
    assert made.bits == 8 * made.packed_nbytes / made.elements == 4 + 16 / 32
    assert [p.bits for p in made.layers] == [4.5, 4.5]
    assert [p.shape for p in made.layers] == [(160, 96), (96, 160)]
    assert made.original_bits == 32
    assert plan(net.bfloat16(), "int4 g32").original_bits == 16
    assert made.peak_nbytes > made.original_nbytes + made.packed_nbytes


def test_a_convolution_is_a_matrix_of_its_filters(net):
    (layer,) = plan(net, "int8", only=["Conv1d"]).layers
    assert layer.shape == (96, 96 * 2)


def test_the_recipe_parses_back(net):
    made = plan(net, "mxfp4 even", "rtn", activations="int8", override={"up": "int4 g32"})
    assert made.recipe() == {
        "weights": "mxfp4 even", "overrides": {"up": "int4 g32"}, "activations": "int8", "transforms": [], "solver": "rtn",
    }  # fmt: skip
    assert quantizer(made.recipe()["weights"]) == made.layers[0].quantizer
    assert (made.solver, made.activations) == (RTN(), quantizer("int8"))


def test_of_equally_frequent_weights_the_first_is_the_usual_one(net):
    recipe = plan(net, "int8", only=["Linear"], override={"down": "int4"}).recipe()
    assert (recipe["weights"], recipe["overrides"]) == ("int8", {"down": "int4"})


def test_the_last_override_that_matches_wins(net):
    made = plan(net, "int8", override={"*": "int4", "up": "int3 row", "*p": "int2"})
    assert [text(p.quantizer) for p in made.layers] == ["int4", "int2", "int4"]


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"weights": "nvfp5"}, SpecError, "no quantizer or format is called 'nvfp5'; did you mean 'nvfp4'"),
        ({"weights": "int8", "solver": "rtm"}, UnknownName, "no solver is called 'rtm'; did you mean 'rtn'"),
        ({"weights": "int8", "activations": "int9"}, SpecError, "no quantizer or format is called 'int9'"),
        (
            {"weights": "int8", "override": {"upp": "int4"}},
            UnknownName,
            r"--override 'upp' matches none of the 3 chosen layers; did you mean 'up'\?",
        ),
        ({"weights": "int8", "override": {"lm_head": "int4"}}, UnknownName, "--override 'lm_head' matches none of the 3 chosen layers"),
        ({"weights": "int8", "override": {"up": "int4 g0"}}, SpecError, "a group of 0"),
        ({"weights": "int8", "only": ["upp"]}, UnknownName, r"--only 'upp' matches none of the 5 layers; did you mean 'up'\?"),
        ({"weights": "int8", "ignore": ["upp"]}, UnknownName, "--ignore 'upp' matches none"),
        ({"weights": "int8", "ignore": ["Linear", "Conv1d"]}, UnknownName, "no layer is left to quantize: 5 could be"),
        ({"weights": "int8", "activations": "int8 round=stochastic"}, UnsupportedError, "--activations with a rounding that draws noise"),
        (
            {"weights": "int8", "activations": "int8 g64"},
            ShapeError,
            "--activations does not fit the 96 inputs of layer up: axis 1 has 96 elements",
        ),
    ],
)
def test_what_cannot_work_is_named(net, options, error, message):
    with pytest.raises(error, match=message):
        plan(net, **options)


def remedies(message):
    """The options between the semicolons of a message: ``--weights 'int4 g32' fits``."""
    found = []
    for part in message.split("; ")[1:]:
        if part.startswith("--"):
            words = shlex.split(re.sub(" (fits|leaves it as it is)$", "", part))
            found.append([(words[i].removeprefix("--"), words[i + 1]) for i in range(0, len(words), 2)])
    return found


@pytest.mark.parametrize("weights", ["int4 g64", "int4 g128", "nvfp4 g64", "mxfp4 g64", "int3 g64 asym", "fp8 128x128", "int4 g64 mse"])
@pytest.mark.parametrize("only", [["Linear"], ["Conv1d", "Linear"], ["up"]])
def test_what_is_offered_really_works(net, weights, only):
    """Every option that the message offers is tried, alone, as it is printed."""
    with pytest.raises(ShapeError) as caught:
        lowbit.quantize(net, weights, only=only)
    message = str(caught.value)
    assert re.match(r"layer (conv|up|down) of shape \(\d+, \d+\): axis \d has \d+ elements, not a multiple of the block \d+; ", message)
    assert "\n" not in message
    offered = remedies(message)
    assert offered
    for options in offered:
        fresh, spec, ignored = Net(), weights, []
        for name, value in options:
            if name == "weights":
                spec = value
            else:
                assert name == "ignore"
                ignored.append(value)
        lowbit.quantize(fresh, spec, only=only, **({"ignore": ignored} if ignored else {}))
        assert sum(isinstance(m, PackedWeight) for m in fresh.modules()) >= 1
        assert isinstance(fresh.lm_head, nn.Linear)  # what was ignored before still is


def test_an_override_that_does_not_fit_is_offered_as_an_override(net):
    with pytest.raises(ShapeError, match="layer down of shape") as caught:
        plan(net, "int8", override={"d*": "nvfp4 g64"})
    (fits,), *_ = remedies(str(caught.value))
    assert fits == ("override", "d*=nvfp4 g32")
    plan(net, "int8", override={"d*": "nvfp4 g32"})


def test_finite_weights_pass_and_others_are_counted(net):
    made = plan(net, "int8")
    check_finite(made.layers)
    with torch.no_grad():
        net.down.weight[3, 4] = float("nan")
        net.down.weight[5] = float("inf")
        net.down.weight[6, 0] = -float("inf")
    with pytest.raises(NonFiniteError, match=r"^down.weight holds 1 NaN and 161 Inf; .* --ignore lm_head --ignore down$"):
        check_finite(made.layers)
    check_finite([p for p in made.layers if p.name != "down"])


def test_large_finite_weights_pass(net):
    with torch.no_grad():
        net.down.weight.fill_(3e38)
    check_finite(plan(net, "int8").layers)
