"""Transforms in front of four-bit weights and four- or eight-bit inputs, on one model and its texts.

    python benchmarks/transforms.py MODEL --results FOLDER [--tokens 8192] [--seconds 3600] [--only nvfp4]

Weights are rounded to nearest. A run is one process, `lowbit compare` with one pair of formats and a few transforms; runs that FOLDER
holds already are not repeated, and none is started after --seconds. Calibration: 8 sequences of 512 tokens, unless said otherwise from
the first half of WikiText-2's validation text; measured on its second half and on Python's own documentation.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

#: weights, inputs
FORMATS = [("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("int4 g64", "int4 row"), ("int4 g64", "int8 row")]
#: what is measured in one run
GROUPS = [
    ["none", "hadamard:size=16", "hadamard:size=32", "arcquant"],
    ["batquant", "ostquant"],
    ["smoothquant", "smoothquant:edges=all", "os_plus", "awq"],
    ["hadamard", "hadamard:size=64", "quarot", "batquant:shared=0"],
]
Run = tuple[str, str, int]


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=8192, help="scored of each text")
    parser.add_argument("--calibrate", default="wikitext2:first")
    parser.add_argument("--texts", nargs="+", default=["wikitext2:second", "pydoc"])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--only", default="", help="runs that hold these words: a format, or the first transform of a run")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.seconds
    runs = [(weights, inputs, group) for group in range(len(GROUPS)) for weights, inputs in FORMATS]
    for run in runs:
        wanted = options.only in f"{run[0]}, {run[1]}, {GROUPS[run[2]][0]}"
        if wanted and not place(options.results, run).is_file() and time.monotonic() < deadline:
            measure(options, run)
    print(markdown(options.results, runs))


def place(results: Path, run: Run) -> Path:
    """The file of a run."""
    return results / (re.sub(r"[^A-Za-z0-9]+", "-", f"{run[0]} {run[1]} {run[2]}") + ".json")


def measure(options: argparse.Namespace, run: Run) -> None:
    """One run as a process."""
    weights, inputs, group = run
    part = Path(f"{place(options.results, run)}.part")
    command = [
        sys.executable, "-m", "lowbit.cli.main", "compare", options.model, "--weights", weights, "--activations", inputs,
        "--transforms", ",".join(GROUPS[group]), "--calibrate", options.calibrate, "--sequences", "8",
        *(word for text in options.texts for word in ("--text", text)), "--max-tokens", str(options.tokens), "--json", str(part),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{run}: {done.stderr.strip()}", file=sys.stderr)
    else:
        part.rename(place(options.results, run))


def markdown(results: Path, runs: list[Run]) -> str:
    """Original perplexities, then a table: a row for each transform, a column for each pair of formats."""
    found = {run: json.loads(place(results, run).read_text()) for run in runs if place(results, run).is_file()}
    if not found:
        return "no run is finished"
    first = next(iter(found.values()))
    original = first["baseline"]["texts"]
    tokens = ", ".join(f"{text} {original[text]['perplexity']:.3f} on {count:,} tokens" for text, count in first["tokens"].items())
    formats = [f for f in FORMATS if any(run[:2] == f for run in found)]
    lines = [
        f"Original perplexity: {tokens}. Each cell: perplexity over that (KL to the original in nats a token), text by text.",
        "",
        "| transform | " + " | ".join(f"{w}, inputs {i}" for w, i in formats) + " |",
        "| --- |" + " --- |" * len(formats),
    ]
    for group, chains in enumerate(GROUPS):
        for i, chain in enumerate(chains):
            rows = [found[(*f, group)]["rows"][i] if (*f, group) in found else None for f in formats]
            if any(rows):
                lines.append(f"| {chain} | " + " | ".join("" if row is None else cell(row, original) for row in rows) + " |")
    return "\n".join(lines)


def cell(row: dict, original: dict) -> str:
    """``1.351 (0.328), 1.521 (0.382)``."""
    texts = row["texts"]
    ratios = {t: (texts[t]["perplexity"] or math.inf) / original[t]["perplexity"] for t in original}
    return ", ".join(f"{ratio:.3f} ({texts[t]['kl'] or math.inf:.4f})" for t, ratio in ratios.items())


if __name__ == "__main__":
    main()
