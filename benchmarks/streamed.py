"""Whether the bound of ``--memory`` holds: a Llama of 1.5 billion random weights is written to disk and quantized with gptq.

    python benchmarks/streamed.py [--memory 2GB] [--sequences 32] [--length 512] [--blocks 28] [--folder DIR]

The model is written tensor by tensor (bfloat16), so that this script itself needs little memory. `lowbit quantize` runs as a process of its
own; printed are its seconds and the most memory that it held, as the system counts it. Without --folder everything is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import tokenizers
import torch
import transformers
from safetensors.torch import save_file

HIDDEN, INTERMEDIATE, HEADS, KEYS, VOCABULARY = 2048, 5632, 32, 4, 32000
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN * KEYS // HEADS, HIDDEN),
    "self_attn.v_proj": (HIDDEN * KEYS // HEADS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}


def write(folder: Path, blocks: int) -> int:
    """A model folder of random weights, a shard a block; returns how many weights it has."""
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(0)
    places: dict[str, str] = {}
    total = 0

    def shard(number: int, shapes: dict[str, tuple[int, ...]]) -> None:
        nonlocal total
        tensors = {}
        for name, shape in shapes.items():
            one = len(shape) == 1
            random = torch.ones(shape) if one else torch.randn(shape, generator=draw) / shape[1] ** 0.5
            tensors[name] = random.bfloat16()
            total += random.numel()
        file = f"model-{number:05}.safetensors"
        save_file(tensors, folder / file, {"format": "pt"})
        places.update(dict.fromkeys(tensors, file))

    shard(0, {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)})
    for i in range(blocks):
        own: dict[str, tuple[int, ...]] = {f"model.layers.{i}.{name}.weight": shape for name, shape in SHAPES.items()}
        norms = dict.fromkeys((f"model.layers.{i}.input_layernorm.weight", f"model.layers.{i}.post_attention_layernorm.weight"), (HIDDEN,))
        shard(i + 1, own | norms)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_hidden_layers=blocks, num_attention_heads=HEADS,
        num_key_value_heads=KEYS, max_position_embeddings=2048, architectures=["LlamaForCausalLM"], dtype="bfloat16",
        tie_word_embeddings=False,
    ).save_pretrained(folder)  # fmt: skip
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    letters = {letter: i for i, letter in enumerate(sorted(byte_level.alphabet()))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False, use_regex=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--weights", default="int4 g64")
    parser.add_argument("--solver", default="gptq")
    parser.add_argument("--sequences", default="32")
    parser.add_argument("--length", default="512")
    parser.add_argument("--blocks", type=int, default=28)
    parser.add_argument("--folder", type=Path, help="where the model is, or will be written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        model = options.folder or Path(place) / "model"
        if not model.is_dir():
            print(f"{write(model, options.blocks) / 1e9:.2f} billion weights written")
        command = [
            sys.executable, "-m", "lowbit.cli.main", "quantize", str(model), "--weights", options.weights, "--solver", options.solver,
            "--calibrate", "pydoc", "--sequences", options.sequences, "--length", options.length, "--memory", options.memory,
            "-o", f"{place}/out",
        ]  # fmt: skip
        began = time.monotonic()
        pid = os.posix_spawn(sys.executable, command, os.environ)
        _, status, usage = os.wait4(pid, 0)
        print(
            f"--memory {options.memory}, {options.sequences} x {options.length} tokens: {time.monotonic() - began:.0f} s, "
            f"at most {usage.ru_maxrss / 1e6:.3f} GB held, exit code {os.waitstatus_to_exitcode(status)}"
        )
        return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
