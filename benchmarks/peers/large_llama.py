"""A Llama of 1.5 billion random weights: as a folder of transformers in shards, and as GGUF files of one type throughout.

Layers hold one random layer with its rows rolled: no two are equal, and nothing has to be drawn for long.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

HIDDEN, WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, VOCABULARY, POSITIONS = 2048, 5632, 32, 32, 8, 64, 32000, 4096

#: name in transformers, name in GGUF, shape
MATRICES = (
    ("self_attn.q_proj", "attn_q", (HEADS * HEAD, HIDDEN)),
    ("self_attn.k_proj", "attn_k", (KV_HEADS * HEAD, HIDDEN)),
    ("self_attn.v_proj", "attn_v", (KV_HEADS * HEAD, HIDDEN)),
    ("self_attn.o_proj", "attn_output", (HIDDEN, HEADS * HEAD)),
    ("mlp.gate_proj", "ffn_gate", (WIDTH, HIDDEN)),
    ("mlp.up_proj", "ffn_up", (WIDTH, HIDDEN)),
    ("mlp.down_proj", "ffn_down", (HIDDEN, WIDTH)),
)
NORMS = (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"))


def drawn() -> tuple[Tensor, list[Tensor]]:
    """The embedding, which is also the output layer, and the matrices of the first layer."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(VOCABULARY, HIDDEN, generator=generator) * 0.02
    return table, [torch.randn(shape, generator=generator) * 0.02 for _, _, shape in MATRICES]


def write_folder(folder: Path) -> None:
    """The model as transformers saves one, bfloat16, one shard a layer; written once."""
    if (folder / "config.json").exists():
        return
    transformers, tokenizers = importlib.import_module("transformers"), importlib.import_module("tokenizers")
    folder.mkdir(parents=True, exist_ok=True)
    table, matrices = drawn()
    ones, places = torch.ones(HIDDEN, dtype=torch.bfloat16), {}

    def save(number: int, tensors: dict[str, Tensor]) -> None:
        file = f"model-{number + 1:05}-of-{LAYERS + 1:05}.safetensors"
        save_file(tensors, folder / file, {"format": "pt"})
        places.update(dict.fromkeys(tensors, file))

    for i in range(LAYERS):
        layer = {f"model.layers.{i}.{n}.weight": W.roll(i, 0).bfloat16() for (n, _, _), W in zip(MATRICES, matrices, strict=True)}
        save(i, layer | {f"model.layers.{i}.{n}.weight": ones.clone() for n, _ in NORMS})
    save(LAYERS, {"model.embed_tokens.weight": table.bfloat16(), "model.norm.weight": ones})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, head_dim=HEAD, max_position_embeddings=POSITIONS, tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"], dtype="bfloat16",
    ).save_pretrained(folder)  # fmt: skip


def write_gguf(path: Path, kind: str) -> None:
    """The model as llama.cpp reads it, all matrices of one type; written once. Tokens have no text.

    Args:
        kind: Q4_0 or Q8_0.
    """
    if path.exists():
        return
    gguf: Any = importlib.import_module("gguf")
    number = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path.with_suffix(".part"), "llama")
    for add, value in (
        (writer.add_block_count, LAYERS), (writer.add_context_length, POSITIONS), (writer.add_embedding_length, HIDDEN),
        (writer.add_feed_forward_length, WIDTH), (writer.add_head_count, HEADS), (writer.add_head_count_kv, KV_HEADS),
        (writer.add_rope_dimension_count, HEAD), (writer.add_layer_norm_rms_eps, 1e-6), (writer.add_vocab_size, VOCABULARY),
        (writer.add_file_type, gguf.LlamaFileType[f"MOSTLY_{kind}"]), (writer.add_tokenizer_model, "none"),
    ):  # fmt: skip
        add(value)
    table, matrices = drawn()
    known = [torch.from_numpy(gguf.quants.quantize(W.numpy(), number)) for W in matrices]

    def tensors() -> Iterator[tuple[str, Any, Any]]:
        yield "token_embd.weight", gguf.quants.quantize(table.numpy(), number), number
        yield "output_norm.weight", torch.ones(HIDDEN).numpy(), None
        for i in range(LAYERS):
            for (_, name, _), data in zip(MATRICES, known, strict=True):
                yield f"blk.{i}.{name}.weight", data.roll(i, 0).numpy(), number
            for _, name in NORMS:
                yield f"blk.{i}.{name}.weight", torch.ones(HIDDEN).numpy(), None

    for name, data, raw in tensors():
        writer.add_tensor(name, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".part").rename(path)
