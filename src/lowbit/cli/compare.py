"""lowbit compare MODEL: many formats and methods on one model in one run, as a table, JSON and a chart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from torch import nn

from lowbit.checkpoint.reading import open_model
from lowbit.checkpoint.writing import check_file, whole
from lowbit.data.text import load_text
from lowbit.errors import ShapeError, SpecError
from lowbit.evaluation.chart import write_chart
from lowbit.evaluation.comparison import table
from lowbit.evaluation.sweep import compare
from lowbit.nn.replace import IGNORE, ONLY
from lowbit.progress import bars
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.spec import quantizer
from lowbit.quantizers.spec import text as quantizer_text
from lowbit.recipes.plan import plan
from lowbit.solvers.solver import solver
from lowbit.transforms.transform import Transform, transform

WEIGHTS = (
    "int8,fp8,mxint8,mxfp8,mxfp6,int6 g64,int4 g32,int4 g64,int4 g128,int4 g64 mse,int4 g64 asym,"
    "nvfp4,mxfp4,mxfp4 even,mxfp4 ceil,mxfp4 rceil,nf4,e2m1 g64 sign_split,int3 g64,int3 g64 asym,int2 g64 mse,ternary"
)


def split(words: str, what: str) -> list[str]:
    """The parts of a comma-separated list.

    Raises:
        SpecError: it is empty.
    """
    parts = [w.strip() for w in words.split(",") if w.strip()]
    if not parts:
        raise SpecError(f"--{what} is empty; separate several with commas")
    return parts


def chain_of(words: str) -> list[Transform]:
    """The transforms of ``smoothquant+quarot``, none for ``none``.

    Raises:
        SpecError: nothing stands on one side of a +.
    """
    parts = [part.strip() for part in words.split("+")]
    if not all(parts):
        raise SpecError(f"--transforms {words!r}: nothing stands on one side of a +; write smoothquant+quarot, or none")
    return [transform(part) for part in parts if part != "none"]


def run(
    model: Annotated[str, typer.Argument(help="builtin, a Hugging Face folder or id, a .gguf file, or a checkpoint folder")] = "builtin",
    weights: Annotated[str | None, typer.Option(help="spec strings, separated by commas; a long list of those that fit by default")] = None,
    solvers: Annotated[str, typer.Option(help="solvers, separated by commas")] = "rtn",
    transforms: Annotated[
        str, typer.Option(help="changes of basis, separated by commas, several in a row joined by +: none,smoothquant+hadamard:size=64")
    ] = "none",
    activations: Annotated[str | None, typer.Option(help="a spec string for the layers' inputs")] = None,
    text: Annotated[list[str] | None, typer.Option(help="a text file, builtin, pydoc, wikitext2; may be given several times")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="layers to quantize: a class, a glob on names, or re:REGEX; all linear and convolution ones by default; repeatable"
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="layers to keep, in the place of lm_head, which is kept by default; repeatable")
    ] = None,
    window: Annotated[int, typer.Option(help="tokens seen at once")] = 512,
    stride: Annotated[int | None, typer.Option(help="tokens between windows; the window by default")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="tokens of each text")] = 16384,
    calibrate: Annotated[list[str] | None, typer.Option(help="texts for solvers that need data; may be given several times")] = None,
    sequences: Annotated[int, typer.Option(min=1, help="calibration sequences")] = 32,
    length: Annotated[int, typer.Option(min=2, help="tokens of a calibration sequence")] = 512,
    seed: Annotated[int, typer.Option(help="of stochastic roundings")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; float32 by default")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures to this file")] = None,
    chart: Annotated[Path | None, typer.Option(help="write a chart, bits against loss, to this HTML file")] = None,
) -> None:
    """Compare formats and methods on one model: true bits a weight, bytes, perplexity, divergence, seconds."""
    for file in (json_file, chart):
        if file is not None:
            check_file(file)
    chosen = [quantizer(w) for w in split(WEIGHTS if weights is None else weights, "weights")]
    methods = [solver(s) for s in split(solvers, "solvers")]
    chains = [chain_of(words) for words in split(transforms, "transforms")]
    patterns: dict[str, Any] = {"only": only or ONLY, "ignore": IGNORE if ignore is None else ignore}
    texts = [load_text(t) for t in text or ()]
    opened = open_model(model, device, dtype)
    notes: list[str] = []
    if weights is None:
        chosen, notes = fitting(opened.module, chosen, patterns)
    with bars() as progress:
        found = compare(
            opened, chosen, methods, texts, transforms=chains, activations=activations, window=window, stride=stride,
            max_tokens=max_tokens, seed=seed, calibration=calibrate or (), sequences=sequences, length=length, progress=progress,
            **patterns,
        )  # fmt: skip
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(table(found))
    for note in (*found.notes, *notes):
        print(f"note: {note}")
    if json_file is not None:
        with whole(json_file) as path:
            path.write_text(json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if chart is not None:
        write_chart(found, chart)


def fitting(model: nn.Module, quantizers: list[Quantizer], patterns: dict[str, Any]) -> tuple[list[Quantizer], list[str]]:
    """The quantizers whose blocks divide the model's layers, and a note on each of the others.

    Raises:
        ShapeError: none does.
    """
    found, notes = [], []
    for each in quantizers:
        try:
            plan(model, each, **patterns)
            found.append(each)
        except ShapeError as error:
            notes.append(f"{quantizer_text(each)} is left out: {error}")
            if len(notes) == len(quantizers):
                raise
    return found, notes
