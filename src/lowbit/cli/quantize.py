"""lowbit quantize MODEL --weights SPEC -o DIR: a checkpoint, and what it cost."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from lowbit.checkpoint.layout import Manifest
from lowbit.checkpoint.reading import Model, open_model
from lowbit.data.text import load_text
from lowbit.errors import DataError, OutputError, UnsupportedError
from lowbit.evaluation.measure import Evaluation, evaluate
from lowbit.models.opening import named_dtype
from lowbit.models.streaming import Streamed
from lowbit.nn.linear import Linear
from lowbit.nn.packed import keep_dense
from lowbit.nn.replace import IGNORE, ONLY, left_alone
from lowbit.progress import bars
from lowbit.quantizers.spec import text as spec_text
from lowbit.recipes.calibrate import Finished, merged
from lowbit.recipes.calibration_data import calibration_source
from lowbit.recipes.memory import give_back_freed, room
from lowbit.recipes.plan import Plan, check_finite, plan
from lowbit.recipes.restartable import check_enterable, quantize_restartably, unfinished
from lowbit.sizes import size


def run(
    model: Annotated[str, typer.Argument(help="builtin, a Hugging Face folder or id, a .gguf file, or a checkpoint folder")],
    weights: Annotated[str, typer.Option(help="a spec string: nvfp4, 'int4 g64', 'mxfp4 even'")] = "nvfp4",
    solver: Annotated[
        str, typer.Option(help="which codes a weight gets: rtn, gptq, gptq:order=act; `lowbit list solver` prints all")
    ] = "rtn",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder for the checkpoint; must be empty or not there")] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(
            help="a change of basis before quantization: smoothquant, quarot, hadamard:size=64; repeatable, applied in this order"
        ),
    ] = None,
    activations: Annotated[str | None, typer.Option(help="a spec string for the layers' inputs")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="layers to quantize: a class, a glob on names, or re:REGEX; all linear and convolution ones by default; repeatable"
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="layers to keep, in the place of lm_head, which is kept by default; repeatable")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option(help="PATTERN=SPEC for layers that differ, such as '*.down_proj=int8'; may be given several times")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="texts to measure on; a file, builtin, pydoc, wikitext2")] = None,
    window: Annotated[int, typer.Option(help="tokens seen at once")] = 512,
    max_tokens: Annotated[int | None, typer.Option(help="tokens of each text; 0 measures nothing")] = 8192,
    calibrate: Annotated[list[str] | None, typer.Option(help="texts for solvers that need data; may be given several times")] = None,
    sequences: Annotated[int, typer.Option(min=1, help="calibration sequences")] = 32,
    length: Annotated[int, typer.Option(min=2, help="tokens of a calibration sequence")] = 512,
    memory: Annotated[
        str | None, typer.Option(help="a bound such as 2GB for a Hugging Face folder: one block in memory at a time; measures nothing")
    ] = None,
    seed: Annotated[int, typer.Option(help="of stochastic roundings")] = 0,
    shard_size: Annotated[str, typer.Option(help="a shard is written when it holds this much: 500MB, 2GB")] = "1GB",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; float32 by default")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be done")] = False,
) -> None:
    """Quantize a model, measure it before and after, and write a checkpoint that loads and generates."""
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 140)
    shard_bytes = size(shard_size)
    if output is None and not dry_run:
        raise OutputError("say where the checkpoint goes with -o DIR, or see what would be done with --dry-run")
    patterns: dict[str, Any] = {"only": only or ONLY, "ignore": IGNORE if ignore is None else ignore}
    limit = None if memory is None else size(memory)
    if limit is not None:
        give_back_freed()
    if limit is not None and device != "cpu":
        raise UnsupportedError(f"--memory bounds a run on the cpu; leave out --memory, or --device {device}")
    if output is not None and not dry_run:
        check_enterable(output)
    texts = [load_text(t) for t in text or ()]
    special = _overrides(override)
    opened = open_model(model, device, dtype) if limit is None else Streamed.open(model, named_dtype(dtype or "float32"))
    made = plan(opened.module, weights, solver, transforms=transform or (), activations=activations, override=special, **patterns)
    source = calibration_source(opened, [made], calibrate or (), sequences, length)
    space = room(opened.module, made, len(source.samples), length, shard_bytes, limit)
    if limit is None:
        check_finite(made.layers)
    console.print(_plan_table(made, space.peak)) if dry_run else print(_summary(made))
    for name, reason in left_alone(opened.module, **patterns).items():
        print(f"note: {name} stays as it is: {reason}")
    if output is None or dry_run:
        return
    texts = [] if max_tokens == 0 or limit is not None else texts or [load_text(opened.usual_text)]
    options: dict[str, Any] = {"window": window, "max_tokens": max_tokens}
    with bars() as progress:
        before = evaluate(opened, texts, keep_reference=True, progress=progress, **options) if texts else None
        with unfinished(output):
            manifest, done = quantize_restartably(
                opened, made, output, source, seed=seed, shard_bytes=space.shard, progress=progress, spill=space.spill, room=space.kept
            )
        reference = None if before is None else before.reference
        keep_dense(opened.module, None)  # what is measured multiplies as the checkpoint will when it is loaded
        after = evaluate(opened, texts, reference=reference, progress=progress, **options) if texts else None
    _report(console, opened, made, manifest, done, before, after)


def _without_kernel(module: nn.Module) -> list[str]:
    """A sentence for each reason why layers will run no faster than float ones."""
    routes = [m.route() for m in module.modules() if isinstance(m, Linear)]
    refused = Counter(r.refused for r in routes if r.kernel == "torch")
    return [f"{n} layers multiply with a dense float32 copy, no faster than float: {reason}" for reason, n in refused.items()]


def _overrides(words: list[str] | None) -> dict[str, str] | None:
    if not words:
        return None
    pairs = [w.partition("=") for w in words]
    for word, (pattern, equals, spec) in zip(words, pairs, strict=True):
        if not (pattern and equals and spec):
            raise DataError(f"--override {word!r} is not PATTERN=SPEC; for instance '*.down_proj=int8'")
    return {p: s for p, _, s in pairs}


def _summary(made: Plan) -> str:
    return (
        f"{len(made.layers)} layers, {made.elements / 1e6:.2f} M weights to {made.bits:.3f} bits each: "
        f"{made.original_nbytes / 1e6:.2f} MB become {made.nbytes / 1e6:.2f} MB"
    )


def _plan_table(made: Plan, peak: int) -> Table:
    drawn = Table("layer", "shape", "weights", "bits", "bytes", caption=f"{_summary(made)}; peak about {peak / 1e6:.0f} MB")
    for each in made.layers:
        drawn.add_row(each.name, "x".join(map(str, each.shape)), spec_text(each.quantizer), f"{each.bits:.3f}", str(each.nbytes))
    return drawn


def _report(
    console: Console,
    model: Model,
    made: Plan,
    manifest: Manifest,
    done: list[Finished],
    before: Evaluation | None,
    after: Evaluation | None,
) -> None:
    if before is not None and after is not None:
        drawn = Table("", "before", "after")
        for was, is_ in zip(before.scores, after.scores, strict=True):
            drawn.add_row(f"perplexity, {was.text}", f"{was.perplexity:.4f}", f"{is_.perplexity:.4f}")
            drawn.add_row("  KL divergence, nats a token", "", f"{after.kl[was.text]:.5f}")
            drawn.add_row("  top-1 agreement", "", f"{after.agreement[was.text]:.4f}")
        drawn.add_row("bits a quantized weight", f"{made.original_bits:.2f}", f"{made.bits:.3f}")
        drawn.add_row("MB", f"{made.original_nbytes / 1e6:.2f}", f"{manifest.nbytes / 1e6:.2f}")
        tokens = ", ".join(f"{was.text}: {was.tokens} tokens" for was in before.scores)
        drawn.caption = f"{tokens}; windows of {before.window}, stride {before.stride}; peak memory {after.peak_memory / 1e6:.0f} MB"
        console.print(drawn)
    figures = {name: found for unit in done for name, found in unit.figures.items()}
    print("the layers that lost most:")
    for name in sorted(figures, key=lambda n: figures[n]["weight SQNR dB"])[:3]:
        print(f"  {name}: {', '.join(f'{what} {value:.4g}' for what, value in figures[name].items())}")
    for warning in merged(w for unit in done for w in unit.warnings):
        print(f"warning: {warning}")
    for warning in [] if isinstance(model, Streamed) else _without_kernel(model.module):
        print(f"warning: {warning}")
    for note in model.notes:
        print(f"note: {note}")
    print(f"digest {manifest.digest}")
