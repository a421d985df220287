"""lowbit evaluate MODEL: perplexity, size and time of a model or checkpoint; against another with --reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lowbit.checkpoint.reading import open_model
from lowbit.checkpoint.writing import check_file, whole
from lowbit.data.text import load_text
from lowbit.evaluation.measure import evaluate
from lowbit.kv_cache.kv_cache import kv_cache
from lowbit.progress import bars


def run(
    model: Annotated[str, typer.Argument(help="builtin, a checkpoint folder, a Hugging Face folder or id, or a .gguf file")],
    text: Annotated[list[str] | None, typer.Option(help="a text file, builtin, pydoc, wikitext2; may be given several times")] = None,
    window: Annotated[int, typer.Option(help="tokens seen at once")] = 512,
    stride: Annotated[int | None, typer.Option(help="tokens between windows; the window by default")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="tokens of each text")] = 16384,
    kv: Annotated[
        str | None, typer.Option(help="how keys and values are kept: kivi:bits=4, kv_adaquant, 'kv:keys=(int8 g64):values=(int4 g64 asym)'")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="a model to measure the divergence from")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; float32 by default")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures to this file")] = None,
) -> None:
    """Measure a model: perplexity on one or more texts, divergence from another model, seconds, peak memory."""
    if json_file is not None:
        check_file(json_file)
    texts = [load_text(t) for t in text or ()]
    kept_tokens = None if kv is None else kv_cache(kv)
    with bars() as progress:
        opened = open_model(model, device, dtype)
        texts = texts or [load_text(opened.usual_text)]
        kept = None
        if reference is not None:
            original = open_model(reference, device, dtype)
            options = {"window": window, "stride": stride, "max_tokens": max_tokens, "progress": progress}
            kept = evaluate(original, texts, keep_reference=True, **options).reference  # type: ignore[arg-type]
            del original
        opened.kv = kept_tokens
        found = evaluate(opened, texts, window=window, stride=stride, max_tokens=max_tokens, reference=kept, progress=progress)
    for score in found.scores:
        print(
            f"{score.text}: perplexity {score.perplexity!r} over {score.tokens} tokens in {score.windows} windows of {score.window}, "
            f"stride {score.stride}"
        )
        if kept is not None:
            kl, agreement = found.kl[score.text], found.agreement[score.text]
            print(f"  from {reference}: KL divergence {kl:.5f} nats a token, top-1 agreement {agreement:.4f}")
    print(f"{found.seconds:.1f} s, peak memory {found.peak_memory / 1e6:.0f} MB")
    for note in opened.notes:
        print(f"note: {note}")
    if json_file is not None:
        with whole(json_file) as path:
            path.write_text(json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
