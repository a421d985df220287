"""Patterns say which layers are meant; a replaced layer is replaced wherever the model holds it; unsure ones are left alone."""

import pytest
import torch
from torch import nn

import lowbit
from lowbit.errors import SpecError, UnknownName, UnsupportedError
from lowbit.nn.linear import Linear
from lowbit.nn.replace import left_alone, matches, put, targets


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 32)

    def forward(self, x):
        return self.down(self.up(x).relu())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(16, 32)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(32)
        self.lm_head = nn.Linear(32, 16)

    def forward(self, index):
        x = self.table(index)
        for block in self.blocks:
            x = x + block(x)
        return self.lm_head(self.norm(x))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


BLOCKS = ["blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down"]


@pytest.mark.parametrize(
    "options, names",
    [
        ({}, BLOCKS),
        ({"ignore": []}, [*BLOCKS, "lm_head"]),
        ({"only": ["Embedding"]}, ["table"]),
        ({"only": ["Linear", "Embedding"], "ignore": []}, ["table", *BLOCKS, "lm_head"]),
        ({"only": ["*.up"]}, ["blocks.0.up", "blocks.1.up"]),
        ({"only": ["blocks.1.*"]}, ["blocks.1.up", "blocks.1.down"]),
        ({"only": [r"re:blocks\.\d\.(up|gate)"]}, ["blocks.0.up", "blocks.1.up"]),
        ({"ignore": ["lm_head", "blocks.0.*"]}, ["blocks.1.up", "blocks.1.down"]),
        ({"ignore": [r"re:.*[.]0[.].*"]}, ["blocks.1.up", "blocks.1.down", "lm_head"]),
        ({"only": ["lm_head"], "ignore": ["Embedding"]}, ["lm_head"]),
    ],
)
def test_patterns_choose_layers_in_the_order_of_the_model(net, options, names):
    assert [t.name for t in targets(net, **options)] == names


def test_a_pattern_is_a_class_a_glob_or_a_regular_expression_of_the_whole_name():
    layer = Doubled(4, 4)
    assert all(matches(p, "a.b", layer) for p in ("Doubled", "Linear", "a.*", "*b", "a.b", "re:a.b", "re:[ab.]+"))
    assert not any(matches(p, "a.b", layer) for p in ("Conv1d", "b", "A.*", "re:b", "re:a", "linear"))


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"only": ["blocks.0.upp"]}, UnknownName, r"--only 'blocks.0.upp' matches none of the 6 layers; did you mean 'blocks.0.up'\?"),
        ({"only": ["zzzz"]}, UnknownName, "one of them is 'table'"),
        ({"only": ["norm"]}, UnknownName, "--only 'norm' matches none"),
        ({"ignore": ["lm_haed"]}, UnknownName, r"--ignore 'lm_haed' matches none of the 6 layers; did you mean 'lm_head'\?"),
        ({"only": ["re:("]}, SpecError, r"'re:\(' is no regular expression: missing \)"),
        ({"ignore": ["Linear"]}, UnknownName, r"no layer is left to quantize: 6 could be, .* --ignore is \['Linear'\]"),
        ({"only": "Linear"}, UnknownName, r"give a list of patterns, for instance \['Linear'\]"),
    ],
)
def test_a_pattern_that_matches_nothing_is_named(net, options, error, message):
    with pytest.raises(error, match=message):
        targets(net, **options)


def test_a_layer_that_computes_something_of_its_own_is_left_alone(net):
    net.blocks[0].up = Doubled(32, 64)
    assert [t.name for t in targets(net)] == [n for n in BLOCKS if n != "blocks.0.up"]
    assert left_alone(net) == {"blocks.0.up": "Doubled computes something of its own"}
    assert left_alone(net, ignore=["blocks.0.up"]) == {}
    with pytest.raises(UnknownName, match=r"blocks.0.up cannot be quantized: Doubled computes"):
        targets(net, only=["blocks.0.up"])


def test_a_weight_that_is_computed_from_others_is_left_alone(net):
    torch.nn.utils.parametrizations.weight_norm(net.blocks[1].down)
    assert left_alone(net) == {"blocks.1.down": "its weight is computed from other parameters"}
    lowbit.quantize(net, "int8")
    assert net(torch.arange(4)).shape == (4, 16)


def test_a_subclass_that_changes_nothing_is_taken():
    class Named(nn.Linear):
        pass

    model = lowbit.quantize(nn.Sequential(Named(32, 8)), "int8")
    assert isinstance(model[0], Linear)


def test_a_module_in_two_places_is_replaced_in_both(net):
    net.blocks[1].up = net.blocks[0].up
    x = torch.arange(4)
    expected = Net()
    expected.load_state_dict(net.state_dict())
    for block in expected.blocks:
        for layer in (block.up, block.down):
            layer.weight.data = lowbit.fake_quantize(layer.weight.data, "int4 g32")
    lowbit.quantize(net, "int4 g32")
    assert net.blocks[0].up is net.blocks[1].up
    assert isinstance(net.blocks[0].up, Linear)
    assert torch.equal(net(x), expected(x))


def test_a_tied_weight_serves_the_layer_that_keeps_it(net):
    net.lm_head = nn.Linear(32, 16, bias=False)
    net.lm_head.weight = net.table.weight
    original = net.table.weight.detach().clone()
    lowbit.quantize(net, "int4 g32", only=["Embedding"])
    assert torch.equal(net.lm_head.weight, original)
    assert torch.equal(net.table(torch.arange(16)), lowbit.fake_quantize(original, "int4 g32"))


def test_put_replaces_by_name_and_modes_are_kept(net):
    put(net, "blocks.1.down", nn.Identity())
    assert isinstance(net.blocks[1].down, nn.Identity)
    net.eval()
    net.blocks[0].up.train()
    lowbit.quantize(net, "int8")
    assert (net.blocks[0].up.training, net.blocks[0].down.training) == (True, False)


def test_a_bare_layer_has_no_place_to_be_replaced_in():
    with pytest.raises(UnsupportedError, match="the model is itself a Linear"):
        lowbit.quantize(nn.Linear(32, 32), "int8")
