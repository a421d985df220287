"""Experts of a mixture: taken apart the model computes the same; packed, only routed tokens pass an expert's layers."""

import json
import shutil

import pytest
import torch
from torch import nn

import lowbit
from lowbit.kernels.op import backend, extension
from lowbit.nn.experts import Stack, refusal, stacks, unstack
from lowbit.nn.replace import left_alone
from lowbit.recipes.walk import Source

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 260, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
MODELS = {
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3Moe": {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "head_dim": 16},
    "GptOss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},  # (experts, in, out), biases, another gate
    "Olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
}
IDS = torch.randint(260, (2, 20), generator=torch.Generator().manual_seed(1))


def mixture(name="Qwen3Moe", **changes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(SIZES | MODELS[name] | {"eos_token_id": 257, "bos_token_id": 256} | changes))
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("name", MODELS)
def test_taken_apart_it_is_the_same_model_and_packed_it_runs_through_the_kernel(name):
    model = mixture(name)
    before, count = logits(model), sum(p.numel() for p in model.parameters())
    memory = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert unstack(model) is model
    assert sum(p.numel() for p in model.parameters()) == count
    assert {p.untyped_storage().data_ptr() for p in model.parameters()} == memory  # nothing was copied
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    lowbit.quantize(model, "int4 g16")
    experts = {n: m for n, m in model.named_modules() if ".experts." in n and isinstance(m, lowbit.nn.Linear)}
    assert len(experts) == 2 * 2 * next(iter(model.modules())).config.num_local_experts
    called = set()
    for name_of_layer, layer in experts.items():
        layer.register_forward_hook(lambda m, args, out, n=name_of_layer: called.add(n))
    with backend("reference"):
        dense = logits(model)
    assert len(called) > len(experts) / 2  # all those that a token was routed to
    torch.testing.assert_close(logits(model), dense, rtol=1e-4, atol=1e-4 * float(dense.abs().max()))
    assert not torch.equal(dense, before)
    if extension("lowbit._cpu") is not None:
        assert {m.route().kernel for m in experts.values()} == {"qlinear"}


def test_only_the_tokens_routed_to_an_expert_pass_it():
    model = lowbit.quantize(mixture(), "int4 g16")
    block = model.model.layers[0].mlp
    rows = {}
    for e in range(6):
        layer = block.experts.gate_up_proj.get_submodule(str(e))
        layer.register_forward_hook(lambda m, args, out, e=e: rows.__setitem__(e, len(args[0])))
    seen = []
    block.gate.register_forward_hook(lambda m, args, out: seen.append(out[2]))
    logits(model)
    chosen = torch.cat([s.reshape(-1) for s in seen])
    assert rows == {e: int((chosen == e).sum()) for e in range(6) if bool((chosen == e).any())}
    assert sum(rows.values()) == 2 * IDS.numel()


def test_transposed_matrices_keep_their_meaning_for_other_functions():
    weights = torch.randn(3, 5, 7)
    x = torch.randn(2, 5)
    stack = Stack(weights, transposed=True)
    assert len(stack) == 3
    assert torch.equal(x @ stack[torch.tensor(1)], nn.functional.linear(x, weights[1].T))
    assert torch.equal(torch.mm(x, stack[2]), x @ weights[2])  # none of the known products
    plain = Stack(weights, transposed=False)
    assert torch.equal(nn.functional.linear(torch.ones(1, 7), plain[0]), nn.functional.linear(torch.ones(1, 7), weights[0]))
    assert torch.equal(torch.ones(1, 5) @ plain[0], torch.ones(1, 5) @ weights[0])


def test_stacks_that_are_multiplied_whole_are_left_alone_and_named():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_experts = 3
            self.up_proj = nn.Parameter(torch.randn(3, 8, 8))

        def forward(self, x):
            return torch.bmm(x, self.up_proj)

    model = nn.Sequential(Whole(), nn.Linear(8, 8))
    assert stacks(model[0]) == ["up_proj"]
    assert refusal(model[0]) == "Whole multiplies with all its experts at once"
    lowbit.quantize(model, "int4 g8")
    assert isinstance(model[0].up_proj, nn.Parameter)
    assert left_alone(model) == {"0": "Whole multiplies with all its experts at once"}


def test_solvers_see_each_experts_own_tokens():
    model, rounded = mixture(), lowbit.quantize(mixture(), "int3 g16")
    exact = logits(model)
    samples = tuple(torch.randint(260, (1, 64), generator=torch.Generator().manual_seed(i)) for i in range(4))
    lowbit.quantize(model, "int3 g16", solver="gptq", data=Source(samples, lambda ids: logits(model, ids)))
    assert float((logits(model) - exact).norm()) < float((logits(rounded) - exact).norm())


@pytest.fixture
def folder(tmp_path, llama_folder):
    """A mixture of Hugging Face on disk, with a byte-level tokenizer."""
    made = tmp_path / "mixture"
    mixture().save_pretrained(made)
    for file in llama_folder().glob("*token*"):
        shutil.copy(file, made)
    return made


def test_the_ordinary_commands_quantize_save_load_and_tell(folder, tmp_path, command):
    text = tmp_path / "words.txt"
    text.write_text("def f(x):\n    return x + 1\n" * 12)
    done = command("quantize", str(folder), "--weights", "int4 g16", "-o", str(tmp_path / "q"), "--text", str(text), "--window", "32")
    assert done.code == 0, done.err
    layers = json.loads((tmp_path / "q" / "lowbit.json").read_text())["layers"]
    assert layers["model.layers.1.mlp.experts.down_proj.5"]["shape"] == [64, 48]
    assert len([n for n in layers if ".experts." in n]) == 24
    model = lowbit.load(tmp_path / "q")
    expected = lowbit.quantize(lowbit.open_model(str(folder)), "int4 g16")
    assert torch.equal(model.logits(IDS[:1]), expected.logits(IDS[:1]))
    told = command("kernels", str(tmp_path / "q"))
    if extension("lowbit._cpu") is not None:
        rows = [[c.strip() for c in line.split("│")[1:-1]] for line in told.out.splitlines() if "experts" in line]
        assert [(r[0], r[2], r[4]) for r in rows] == [("12", "96x64", "qlinear"), ("12", "64x48", "qlinear")]
    assert command("generate", str(tmp_path / "q"), "x = ", "--max-new-tokens", "4").code == 0
