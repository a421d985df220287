"""Discovery finds products, norms, the residual stream and tied weights in models that it has never heard of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lowbit.models.builtin import Builtin
from lowbit.nn.graph import Graph, Product, block_names, discover

IDS = torch.arange(6)[None]


def hugging_face(name: str, **changes: Any) -> nn.Module:
    """A tiny random model of transformers with two blocks."""
    transformers = pytest.importorskip("transformers")
    kind, config = {
        "llama": ("LlamaForCausalLM", "LlamaConfig"),
        "neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig"),
        "opt": ("OPTForCausalLM", "OPTConfig"),
        "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig"),
        "qwen3": ("Qwen3ForCausalLM", "Qwen3Config"),
        "bert": ("BertModel", "BertConfig"),
    }[name]
    sizes = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
    torch.manual_seed(0)
    return getattr(transformers, kind)(getattr(transformers, config)(**(sizes | changes))).eval()  # type: ignore[no-any-return]


def graph_of(module: nn.Module) -> Graph:
    cache = {} if type(module).__name__ == "BertModel" else {"use_cache": False}
    return discover(module, lambda: module(input_ids=IDS, **cache))


def named(graph: Graph, end: str) -> list[Product]:
    found = [p for p in graph.products if p.name.endswith(end)]
    assert found, end
    return found


def facts(graph: Graph, block: str) -> dict[str, tuple[str | None, bool, bool]]:
    """Of the products of a block: the norm they read (its last word), whether they read and write the stream."""
    return {
        p.name.removeprefix(block + "."): (p.norm and p.norm.removeprefix(block + "."), p.reads_residual, p.writes_residual)
        for p in graph.products
        if p.name.startswith(block + ".")
    }


GATED = {"intermediate_size": 24, "num_key_value_heads": 1}


@pytest.mark.parametrize(("name", "changes", "first", "second"), [
    ("llama", {**GATED, "tie_word_embeddings": True}, "input_layernorm", "post_attention_layernorm"),
    ("qwen3", {**GATED, "head_dim": 8}, "input_layernorm", "post_attention_layernorm"),
    ("gemma3", {**GATED, "head_dim": 8}, "input_layernorm", "pre_feedforward_layernorm"),
])  # fmt: skip
@pytest.mark.parametrize("block", [0, 1])
def test_decoders_with_gated_mlps(name: str, changes: dict[str, Any], first: str, second: str, block: int) -> None:
    graph = graph_of(hugging_face(name, **changes))
    prefix = f"model.layers.{block}"
    assert facts(graph, prefix) == {
        "self_attn.q_proj": (first, False, False),
        "self_attn.k_proj": (first, False, False),
        "self_attn.v_proj": (first, False, False),
        "self_attn.o_proj": (None, False, True),
        "mlp.gate_proj": (second, False, False),
        "mlp.up_proj": (second, False, False),
        "mlp.down_proj": (None, False, True),
    }
    inside = [p.name for p in graph.products if p.name.startswith(prefix)]
    assert [[n.rpartition(".")[2] for n in group] for group in graph.groups(inside)] == [
        ["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"],
    ]  # fmt: skip
    assert graph.after(f"{prefix}.{second}") == [f"{prefix}.mlp.gate_proj", f"{prefix}.mlp.up_proj"]
    assert graph.norms[f"{prefix}.{first}"] and graph.norms["model.norm"]
    inner = [n for n in graph.norms if n.endswith(("q_norm", "k_norm", "post_feedforward_layernorm"))]
    assert len(inner) == {"llama": 0, "qwen3": 4, "gemma3": 6}[name]
    assert not any(graph.norms[n] for n in inner)
    assert graph.unsure == {}


def test_embeddings_write_the_stream_and_the_head_reads_the_last_norm() -> None:
    graph = graph_of(hugging_face("llama", **GATED, tie_word_embeddings=True))
    (table,), (head,) = named(graph, "embed_tokens"), named(graph, "lm_head")
    assert table.writes_residual and not head.writes_residual
    assert head.norm == "model.norm"
    assert graph.tied == (("model.embed_tokens.weight", "lm_head.weight"),)
    assert graph_of(hugging_face("llama", **GATED, tie_word_embeddings=False)).tied == ()


def test_parallel_branches_that_are_added_to_each_other_first() -> None:
    """GPT-NeoX computes mlp + attention, then adds the sum to the stream."""
    graph = graph_of(hugging_face("neox", intermediate_size=24))
    for block in ("gpt_neox.layers.0", "gpt_neox.layers.1"):
        assert facts(graph, block) == {
            "attention.query_key_value": ("input_layernorm", False, False),
            "attention.dense": (None, False, True),
            "mlp.dense_h_to_4h": ("post_attention_layernorm", False, False),
            "mlp.dense_4h_to_h": (None, False, True),
        }
    assert all(graph.norms.values())


def test_positions_that_are_embedded() -> None:
    graph = graph_of(hugging_face("opt", ffn_dim=24, word_embed_proj_dim=16))
    assert all(p.writes_residual for p in named(graph, "embed_tokens") + named(graph, "embed_positions"))
    for block in ("model.decoder.layers.0", "model.decoder.layers.1"):
        assert facts(graph, block) == {
            "self_attn.q_proj": ("self_attn_layer_norm", False, False),
            "self_attn.k_proj": ("self_attn_layer_norm", False, False),
            "self_attn.v_proj": ("self_attn_layer_norm", False, False),
            "self_attn.out_proj": (None, False, True),
            "fc1": ("final_layer_norm", False, False),
            "fc2": (None, False, True),
        }


def test_an_encoder_whose_norms_lie_on_the_stream() -> None:
    """BERT normalizes the sum, so its products read the stream itself, which is also the output of a norm."""
    graph = graph_of(hugging_face("bert", intermediate_size=24))
    before = "encoder.layer.0.output.LayerNorm"
    read = [p for p in graph.products if p.norm == before]
    assert [p.name.rpartition(".")[2] for p in read] == ["query", "key", "value"]
    assert all(p.reads_residual for p in read) and len({p.inputs for p in read}) == 1
    assert [p.writes_residual for p in named(graph, "output.dense")] == [True] * 4
    assert all(graph.norms.values())


def test_the_builtin_model() -> None:
    model = Builtin.load()
    graph = discover(model.module, lambda: model.logits(IDS))
    assert [p.name for p in graph.products][:3] == [
        "model.embed_tokens",
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.k_proj",
    ]
    assert len(graph.products) == 2 + 5 * 7
    assert sum(p.writes_residual for p in graph.products) == 1 + 5 * 2
    assert len({p.inputs for p in graph.products}) == 2 + 5 * 4
    assert block_names(model.module) == [f"model.layers.{i}" for i in range(5)]


class Residual(nn.Module):
    """conv-bn-relu twice with a skip, as in ResNet; the second kind changes the size of the skip."""

    def __init__(self, inside: int, outside: int, stride: int, inplace: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.down = nn.Conv2d(inside, outside, 1, stride, bias=False) if stride > 1 else None
        self.relu = nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        skip = x if self.down is None else self.down(x)
        if self.relu.inplace:
            y += skip
            return self.relu(y)
        return self.relu(y + skip)


class ResNet(nn.Module):
    """A stem, three residual blocks, a classifier."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace))
        self.blocks = nn.Sequential(Residual(8, 8, 1, inplace), Residual(8, 16, 2, inplace), Residual(16, 16, 1, inplace))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_convolutional_network_with_skips(inplace: bool) -> None:
    torch.manual_seed(0)
    model = ResNet(inplace).eval()
    graph = discover(model, lambda: model(torch.randn(1, 3, 8, 8)))
    assert [p.name for p in graph.products] == [
        "stem.0", "blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2", "blocks.1.down", "blocks.2.conv1",
        "blocks.2.conv2", "fc",
    ]  # fmt: skip
    by_name = {p.name: p for p in graph.products}
    assert by_name["blocks.1.conv1"].inputs == by_name["blocks.1.down"].inputs
    assert len({p.inputs for p in graph.products}) == 8
    assert {n for n, p in by_name.items() if p.writes_residual} >= {"blocks.0.conv2", "blocks.1.conv2", "blocks.1.down", "blocks.2.conv2"}
    assert not by_name["blocks.0.conv1"].writes_residual and not by_name["fc"].writes_residual
    assert block_names(model) == ["blocks.0", "blocks.1", "blocks.2"]
    assert graph.unsure == {}


class Attention(nn.Module):
    """One head with a fused qkv product, on a pre-norm branch with a layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gamma = nn.Parameter(torch.full((1, 5, width), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.gamma * self.proj(nn.functional.scaled_dot_product_attention(q, k, v))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """Patches, a class token, two blocks, a head on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.blocks = nn.ModuleList(Attention(8) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.token, self.patch(x).flatten(2).mT), 1) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def test_a_vision_transformer() -> None:
    torch.manual_seed(0)
    model = ViT().eval()
    graph = discover(model, lambda: model(torch.randn(1, 3, 8, 8)))
    for block in ("blocks.0", "blocks.1"):
        assert facts(graph, block) == {
            "qkv": ("norm1", False, False),
            "proj": (None, False, True),
            "fc1": ("norm2", False, False),
            "fc2": (None, False, True),
        }
    assert all(graph.norms.values())
    assert graph.products[-1].norm == "norm"


class Branches(nn.Module):
    """Products whose inputs look alike but are not, and some that are alike but do not look so."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("left", "right", "left_copy", "right_copy", "viewed", "flat", "before", "after", "turned", "idle", "twice"):
            setattr(self, name, nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        out = self.left(a) + self.right(b) + self.left_copy(a.contiguous()) + self.right_copy(b.clone())
        y = torch.relu(a)
        out = out + self.viewed(y) + self.flat(y.reshape(-1, 4)).reshape(y.shape) + self.turned(y[0].mT.contiguous()).mT
        out = out + self.before(y)
        y.mul_(2)
        out = out + self.after(y)
        return self.twice(self.twice(out))


def test_only_products_of_the_same_numbers_share_an_input() -> None:
    model = Branches().eval()
    graph = discover(model, lambda: model(torch.randn(1, 4, 8)))
    groups = [set(g) for g in graph.groups([p.name for p in graph.products])]
    assert groups == [{"left", "left_copy"}, {"right", "right_copy"}, {"viewed", "flat", "before"}, {"turned"}, {"after"}, {"twice"}]


def test_what_is_not_sure_is_said() -> None:
    model = Branches().eval()
    graph = discover(model, lambda: model(torch.randn(1, 4, 8)))
    assert graph.unsure == {"twice": "it ran 2 times in one pass", "idle": "it did not run on the sample"}
    assert "idle" not in {p.name for p in graph.products}


@pytest.mark.parametrize("make", [ResNet, ViT])
def test_nothing_is_left_behind(make: Callable[[], nn.Module]) -> None:
    """No hooks stay, and the model computes the same numbers, whether the run succeeds or fails."""
    model = make().eval()
    image = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = model(image)

    def failing() -> None:
        model(image)
        raise KeyError("after the pass")

    with pytest.raises(KeyError):
        discover(model, failing)
    discover(model, lambda: model(image))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with torch.no_grad():
        assert torch.equal(model(image), expected)


def test_models_without_repeated_blocks_have_none() -> None:
    assert block_names(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))) == []
    assert block_names(nn.Sequential(nn.ReLU(), nn.ReLU())) == []
    assert block_names(nn.Linear(4, 4)) == []
