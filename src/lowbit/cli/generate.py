"""lowbit generate MODEL PROMPT: text from a model or checkpoint."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console

from lowbit.checkpoint.reading import open_model
from lowbit.kv_cache.kv_cache import kv_cache


def run(
    model: Annotated[str, typer.Argument(help="builtin, a checkpoint folder, a Hugging Face folder or id, or a .gguf file")],
    prompt: Annotated[str, typer.Argument(help="the beginning, or with --chat the question")] = "def ",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="how many tokens to add at most")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token")] = 0.0,
    seed: Annotated[int, typer.Option(help="of the sampling")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="put the prompt into the chat template")] = False,
    kv: Annotated[
        str | None, typer.Option(help="how keys and values are kept: kivi:bits=4, kv_adaquant, kv:keys=nvfp4:values=nvfp4")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cpu",
) -> None:
    """Generate text."""
    kept = None if kv is None else kv_cache(kv)
    opened = open_model(model, device)
    opened.kv = kept
    started = time.perf_counter()
    added = opened.generate(prompt, max_new_tokens, temperature, seed, chat)
    seconds = time.perf_counter() - started
    print(added if chat else prompt + added)
    Console(stderr=True).print(f"{seconds:.1f} s", style="dim", highlight=False)
