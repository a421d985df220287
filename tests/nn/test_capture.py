"""Blocks run on their own give what they give inside the model, and products' inputs are the matrices that they multiply."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lowbit.errors import UnsupportedError
from lowbit.models.builtin import Builtin
from lowbit.nn.capture import as_matrix, calls, first_inputs, of_one_matrix, product_inputs, returns_tuple
from lowbit.nn.graph import block_names

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])


def walk(module: nn.Module, forward: Any, sample: Any) -> list[Tensor]:
    """The hidden state before each block and after the last, moved from block to block."""
    blocks = [module.get_submodule(n) for n in block_names(module)]
    found = calls(blocks, forward, sample, returns_tuple(blocks[0], forward, sample))
    states = [first_inputs(blocks[0], forward, sample)]
    for block, call in zip(blocks, found, strict=True):
        states.append(call.run(block, states[-1]))
    return states


def seen_inside(module: nn.Module, forward: Any, sample: Any) -> list[Tensor]:
    """The same states as an ordinary pass of the whole model has them."""
    states: list[Tensor] = []

    def before(block: nn.Module, args: Any, kwargs: Any) -> None:
        states.append((args[0] if args else kwargs["hidden_states"]).clone())

    def after(block: nn.Module, args: Any, out: Any) -> None:
        states.append((out[0] if isinstance(out, tuple) else out).clone())

    blocks = [module.get_submodule(n) for n in block_names(module)]
    hooks = [b.register_forward_pre_hook(before, with_kwargs=True) for b in blocks] + [blocks[-1].register_forward_hook(after)]
    with torch.no_grad():
        forward(sample)
    for hook in hooks:
        hook.remove()
    return states


@pytest.mark.parametrize(("kind", "config", "changes"), [
    ("LlamaForCausalLM", "LlamaConfig", {"intermediate_size": 24, "num_key_value_heads": 1}),
    ("GPTNeoXForCausalLM", "GPTNeoXConfig", {"intermediate_size": 24}),
    ("OPTForCausalLM", "OPTConfig", {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    ("Gemma3ForCausalLM", "Gemma3TextConfig", {
        "intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 2, "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }),
    ("BertModel", "BertConfig", {"intermediate_size": 24}),
])  # fmt: skip
def test_walking_from_block_to_block_is_the_models_own_pass(kind: str, config: str, changes: dict[str, Any]) -> None:
    """Every block gets its own arguments: Gemma's blocks differ in mask and rotary angles."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**(sizes | changes))).eval()
    cache = {} if kind == "BertModel" else {"use_cache": False}

    def forward(ids: Tensor) -> object:
        return model(input_ids=ids, **cache)

    alone, inside = walk(model, forward, IDS), seen_inside(model, forward, IDS)
    assert len(alone) == len(inside) == len(block_names(model)) + 1
    assert all(torch.equal(a, b) for a, b in zip(alone, inside, strict=True))
    assert not torch.equal(alone[0], alone[-1])


def test_the_builtin_model_walks() -> None:
    model = Builtin.load()
    alone, inside = walk(model.module, model.logits, IDS), seen_inside(model.module, model.logits, IDS)
    assert len(alone) == 6
    assert all(torch.equal(a, b) for a, b in zip(alone, inside, strict=True))


class Block(nn.Module):
    """x + linear(x) * factor; may work in place, may return a tuple."""

    def __init__(self, inplace: bool = False, in_tuple: bool = False) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.inplace, self.in_tuple = inplace, in_tuple

    def forward(self, x: Tensor, factor: float, *, shift: float = 0.0) -> Any:
        y = self.last(torch.relu(self.linear(x))) * factor + shift
        x = x.add_(y) if self.inplace else x + y
        return (x, "more") if self.in_tuple else x


class Stack(nn.Module):
    """Blocks with a factor and a shift of their own; ``order`` says which run."""

    def __init__(self, order: tuple[int, ...] = (0, 1), **options: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(**options) for _ in range(2))
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        for i in self.order:
            out = self.blocks[i](x, 0.5 + i, shift=float(i))
            x = out[0] if isinstance(out, tuple) else out
        return x


@pytest.mark.parametrize("in_tuple", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_blocks_that_return_tuples_or_work_in_place(inplace: bool, in_tuple: bool) -> None:
    torch.manual_seed(0)
    model = Stack(inplace=inplace, in_tuple=in_tuple).eval()
    x = torch.randn(3, 4)
    blocks = list(model.blocks)
    assert returns_tuple(blocks[0], model, x) is in_tuple
    found = calls(blocks, model, x, in_tuple)
    assert [(c.args, c.kwargs, c.in_tuple) for c in found] == [((0.5,), {"shift": 0.0}, in_tuple), ((1.5,), {"shift": 1.0}, in_tuple)]
    state = first_inputs(blocks[0], model, x)
    kept = state.clone()
    first = found[0].run(blocks[0], state)
    assert torch.equal(state, kept), "the state that was handed in has changed"
    with torch.no_grad():
        assert torch.equal(found[1].run(blocks[1], first), model(x))


@pytest.mark.parametrize(("order", "message"), [
    ((0, 1, 0), "block 0 runs more than once in a pass"),
    ((0,), "a pass reaches 1 of 2 blocks"),
])  # fmt: skip
def test_models_that_do_not_run_block_by_block_are_refused(order: tuple[int, ...], message: str) -> None:
    model = Stack(order).eval()
    x = torch.randn(3, 4)
    with torch.no_grad():
        expected = model(x)
    with pytest.raises(UnsupportedError, match=message):
        calls(list(model.blocks), model, x)
    with torch.no_grad():
        assert torch.equal(model(x), expected), "a block's forward was not put back"


def test_what_is_not_reached_is_said() -> None:
    model = Stack((0,)).eval()
    x = torch.randn(3, 4)
    with pytest.raises(UnsupportedError, match="the first block of the model is not reached"):
        first_inputs(model.blocks[1], model, x)
    with pytest.raises(UnsupportedError, match="the product is not reached by a forward pass of its block"):
        product_inputs(model, model.blocks[1].linear, lambda: model(x))
    with pytest.raises(UnsupportedError, match="does not take its hidden state as the first argument"):
        first_inputs(model.blocks[0], lambda _: model.blocks[0](factor=1.0, x=x), x)


def test_the_input_of_a_product_and_no_more_of_the_pass() -> None:
    model = Stack().eval()
    x = torch.randn(2, 3, 4)
    ran: list[nn.Module] = []
    hook = model.blocks[0].last.register_forward_hook(lambda m, a, o: ran.append(m))
    seen = product_inputs(model, model.blocks[0].linear, lambda: model(x))
    assert torch.equal(seen, x.reshape(6, 4)) and not seen.requires_grad
    assert ran == []
    hook.remove()
    with torch.no_grad():
        assert torch.equal(
            product_inputs(model, model.blocks[0].last, lambda: model(x)), torch.relu(model.blocks[0].linear(x)).reshape(6, 4)
        )
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


@given(
    st.integers(1, 3), st.integers(1, 3), st.sampled_from([(1, 1), (3, 3), (2, 3)]), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2)
)
def test_a_convolution_is_its_matrix_times_its_patches(
    inside: int, outside: int, kernel: tuple[int, int], stride: int, padding: int, dilation: int
) -> None:
    torch.manual_seed(inside * 100 + outside)
    layer = nn.Conv2d(inside, outside, kernel, stride, padding, dilation, bias=False)
    x = torch.randn(2, inside, 7, 6)
    matrix = as_matrix(layer, x)
    expected = layer(x).detach()
    got = matrix @ layer.weight.detach().flatten(1).mT
    torch.testing.assert_close(got, expected.flatten(2).mT.flatten(0, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("layer", "message"), [
    (nn.Conv2d(4, 4, 3, groups=2), "a convolution with groups"),
    (nn.Conv2d(4, 4, 3, padding="same"), "padded other than with zeros"),
    (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padded other than with zeros"),
    (nn.Conv1d(4, 4, 3), "the inputs of Conv1d are not collected"),
])  # fmt: skip
def test_layers_without_one_input_matrix_are_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        as_matrix(layer, torch.randn(1, 4, 8, 8))


def test_convolutions_of_two_sizes_have_two_matrices() -> None:
    block = nn.ModuleDict({
        "a": nn.Conv2d(4, 4, 3, 2, 1), "b": nn.Conv2d(4, 8, 1, 2), "c": nn.Conv2d(4, 2, 3, 2, 1), "d": nn.Conv2d(4, 2, 3, 1, 1),
        "e": nn.Linear(4, 4), "f": nn.Linear(4, 2),
    })  # fmt: skip
    assert of_one_matrix(block, ["a", "b", "c", "d"]) == [["a", "c"], ["b"], ["d"]]
    assert of_one_matrix(block, ["e", "f"]) == [["e", "f"]]
