"""Producers are found by trying, in networks that nobody has described."""

from __future__ import annotations

import pytest
import torch
from tests.nn.test_graph import GATED, IDS, hugging_face
from torch import nn
from torch.nn import functional

from lowbit.nn.edges import gain_at_rest, junctions, passes
from lowbit.nn.graph import discover
from lowbit.philox import Key
from lowbit.transforms.hadamard import Turned


def found(module, x):
    run = lambda: module(x)  # noqa: E731
    graph = discover(module, run)
    return {j.consumers[0]: j for j in junctions(module, graph, [p.name for p in graph.products], run)}, run


class Toy(nn.Module):
    """A block with whatever is between two layers."""

    def __init__(self, between, second=8, also=False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.between, self.also = nn.Linear(6, 8), nn.Linear(second, 3), between, also

    def forward(self, x):
        h = self.between(self.first(x))
        return self.second(h) + (h.sum() if self.also else 0)


@pytest.mark.parametrize(("between", "classes"), [
    (functional.relu, list(range(8))),
    (lambda h: h.flip(-1), list(range(8))[::-1]),
    (lambda h: h * torch.linspace(1, 2, 8), list(range(8))),
    (lambda h: h[..., [3, 3, 0, 1, 2, 7, 6, 5]], [3, 3, 0, 1, 2, 7, 6, 5]),
    (functional.silu, None),
    (lambda h: h.softmax(-1), None),
    (lambda h: h + h.roll(1, -1), None),
    (lambda h: h * h, None),
    (lambda h: h + 1, None),
])  # fmt: skip
def test_what_stands_between_two_layers(between, classes):
    by, _ = found(Toy(between), torch.randn(5, 6))
    producer = by["second"].producer
    assert producer == (None if classes is None else "first")
    assert classes is None or by["second"].classes.tolist() == classes


def test_numbers_that_somebody_else_reads_have_no_producer():
    by, _ = found(Toy(functional.relu, also=True), torch.randn(5, 6))
    assert by["second"].producer is None


def test_only_a_plain_path_lets_channels_be_mixed():
    change = Turned.of(8, 4, Key())
    for between, expected in ((lambda h: 2 * h, True), (functional.relu, False), (lambda h: h * torch.linspace(1, 2, 8), False)):
        module = Toy(between)
        by, run = found(module, torch.randn(5, 6))
        assert by["second"].producer == "first"
        assert passes(module, by["second"], change, run) == expected


@pytest.mark.parametrize(("name", "changes", "pairs"), [
    ("llama", GATED, {"q_proj": "input_layernorm", "o_proj": "v_proj", "gate_proj": "post_attention_layernorm", "down_proj": "up_proj"}),
    ("gemma3", {**GATED, "head_dim": 8}, {"q_proj": "input_layernorm", "o_proj": "v_proj", "down_proj": "up_proj"}),
    ("opt", {"ffn_dim": 24, "word_embed_proj_dim": 16}, {"fc1": "final_layer_norm", "fc2": "fc1", "q_proj": "self_attn_layer_norm"}),
    ("neox", {"intermediate_size": 24}, {"query_key_value": "input_layernorm", "dense_h_to_4h": "post_attention_layernorm"}),
])  # fmt: skip
def test_decoders(name, changes, pairs):
    model = hugging_face(name, **changes)
    run = lambda: model(input_ids=IDS, use_cache=False)  # noqa: E731
    graph = discover(model, run)
    by = {j.consumers[0]: j for j in junctions(model, graph, [p.name for p in graph.products], run)}
    for reader, producer in pairs.items():
        made = [j.producer for n, j in by.items() if n.endswith(f"1.self_attn.{reader}") or n.endswith(f"1.mlp.{reader}") or
                n.endswith(f"1.{reader}") or n.endswith(f"1.attention.{reader}")]  # fmt: skip
        assert made and all(m is not None and m.endswith(producer) for m in made), (reader, made)
    if name == "llama":  # two heads read one head of values
        o = next(j for n, j in by.items() if n.endswith("0.self_attn.o_proj"))
        assert o.classes.tolist() == [*range(8), *range(8)]


def test_a_convolution_after_a_norm_and_a_relu():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 5)
    ).eval()
    by, _ = found(module, torch.randn(2, 3, 4, 4))
    assert by["3"].producer == "1"
    assert by["5"].producer == "3"
    assert by["5"].classes.tolist() == [i // 4 for i in range(16)]
    assert by["0"].producer is None


def test_gains():
    class Gemma(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6))

        def forward(self, x):
            return x / x.square().mean(-1, keepdim=True).sqrt() * (1 + self.weight)

    class Odd(Gemma):
        def forward(self, x):
            return x * self.weight.exp()

    batch = nn.BatchNorm2d(6).eval()
    batch.running_mean += 3
    for norm, rest in ((nn.LayerNorm(6), 0.0), (nn.RMSNorm(6), 0.0), (Gemma(), 1.0), (Odd(), None), (batch, 0.0)):
        before = norm.weight.clone()
        assert gain_at_rest(norm) == rest
        assert torch.equal(norm.weight, before)
