"""lowbit bench MODEL: tokens a second, against torch in float32 and bfloat16, and the share of what the machine can do."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from lowbit.checkpoint.reading import Model, open_model
from lowbit.cli.doctor import cpu, cpu_target
from lowbit.errors import DataError
from lowbit.evaluation.speed import (
    Speed,
    as_dense,
    generation_speed,
    multiplied,
    product_peak,
    read_bandwidth,
    streamed_nbytes,
)
from lowbit.models.opening import DTYPES


def measure(model: Model, prompt: int, count: int, rounds: int, against: list[str]) -> dict[str, Any]:
    """All figures of the command; speeds in tokens a second, shares in [0, 1]."""
    bandwidth, peak = read_bandwidth(), product_peak()
    decoder = model.fused()
    own = generation_speed(model, prompt, count, rounds)
    nbytes = streamed_nbytes(model.module)
    operations = 2 * multiplied(model.module, head=False)
    found: dict[str, Any] = {
        "model": model.name, "threads": torch.get_num_threads(), "prompt": prompt, "tokens": count,
        "bandwidth": bandwidth, "product_peak": peak, "step_nbytes": nbytes, "operations": operations,
        "runs": {"packed": _figures(own, nbytes, operations, bandwidth, peak)},
        "generation": decoder if isinstance(decoder, str) else None,
    }  # fmt: skip
    for name in against:
        other = as_dense(model, DTYPES[name])
        nbytes = sum(p.numel() * p.element_size() for n, p in other.module.named_parameters() if "embed" not in n or _tied(other))
        found["runs"][name] = _figures(generation_speed(other, prompt, count, rounds), nbytes, operations, bandwidth, peak)
    return found


def _tied(model: Model) -> bool:
    head, table = (
        getattr(m, "weight", None) for m in (model.module.get_submodule("lm_head"), model.module.get_submodule("model.embed_tokens"))
    )
    return head is table


def _figures(speed: Speed, nbytes: int, operations: int, bandwidth: float, peak: float) -> dict[str, float]:
    return {
        "prefill": speed.prefill, "decode": speed.decode, "step_nbytes": nbytes,
        "bandwidth_share": nbytes * speed.decode / bandwidth, "peak_share": operations * speed.prefill / peak,
    }  # fmt: skip


def slower(found: dict[str, Any]) -> list[str]:
    """A sentence for each way in which the packed model is slower than torch."""
    own, said = found["runs"]["packed"], []
    for name, other in found["runs"].items():
        for what in ("prefill", "decode"):
            if name != "packed" and own[what] < other[what]:
                said.append(f"{what} is slower than torch in {name}: {own[what]:.1f} against {other[what]:.1f} tokens a second")
    return said


def text(found: dict[str, Any]) -> tuple[Table, list[str]]:
    """The table and the lines below it."""
    drawn = Table("", "prefill tokens/s", "decode tokens/s", "MB a step", "of read bandwidth", "of float32 GEMM peak", "decode / float32")
    base = found["runs"].get("float32")
    for name, run in found["runs"].items():
        shown = [f"{run['prefill']:.1f}", f"{run['decode']:.1f}", f"{run['step_nbytes'] / 1e6:.1f}"]
        shown += [f"{run['bandwidth_share']:.0%}", f"{run['peak_share']:.0%}"]
        shown.append("" if base is None else f"{run['decode'] / base['decode']:.2f}")
        drawn.add_row(name if name == "packed" else f"torch {name}", *shown)
    target = cpu_target()
    where = f"{cpu()['cores_allowed']} cores, {found['threads']} threads, kernels {target['target'] if target else 'none'}"
    lines = [
        f"measured in this run: {found['bandwidth'] / 1e9:.1f} GB/s of reading, {found['product_peak'] / 1e9:.0f} Gflop/s of torch float32",
        where,
        f"a prompt of {found['prompt']} tokens, then {found['tokens']} one by one; medians",
    ]
    if found["generation"] is not None:
        lines.append(f"note: generation runs module by module: {found['generation']}")
    return drawn, lines + [f"note: {sentence}" for sentence in slower(found)]


def run(
    model: Annotated[str, typer.Argument(help="a checkpoint folder, builtin, a Hugging Face folder or id, or a .gguf file")],
    prompt: Annotated[int, typer.Option(min=1, help="tokens of the prompt")] = 128,
    tokens: Annotated[int, typer.Option(min=1, help="tokens that follow the first new one")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="medians of so many")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="of torch and the kernels; torch's own number by default")] = None,
    against: Annotated[list[str] | None, typer.Option(help="float32, bfloat16, float16, none: the same numbers in torch")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how fast a model reads a prompt and generates, and what share of this machine that is."""
    wanted = [] if against == ["none"] else against or ["float32", "bfloat16"]
    for name in wanted:
        if name not in DTYPES:
            raise DataError(f"--against {name!r}; there are {', '.join(DTYPES)} and none")
    opened = open_model(model)
    if prompt + tokens + 1 > opened.context:
        raise DataError(f"{prompt} + {tokens} + 1 tokens are more than the {opened.context} of {model}; take fewer")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        found = measure(opened, prompt, tokens, rounds, wanted)
    finally:
        torch.set_num_threads(before)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    drawn, lines = text(found)
    Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 140).print(drawn)
    print("\n".join(lines))
