"""Data-free and calibrated methods on one real model and two texts: screened on few tokens, the best measured on more.

    python benchmarks/calibrated.py MODEL --results FOLDER [--stage screen|final] [--jobs 1] [--threads 2] [--device cpu]

Each row is one process of its own (`lowbit compare` with one quantizer and one solver), held to --threads cores, so that
its peak memory is its own. Rows that FOLDER holds already are not run again; no row is started when --seconds are
nearly over. Calibration: 32 sequences of 512 tokens from the first half of WikiText-2's validation text, in some rows half
of them from the sources of Python's standard library; measured on WikiText's second half and on Python's own documentation.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

INTEGERS = ("int4 g64", "int3 g64", "int2 g64")
FLOATS = ("nvfp4", "mxfp4 even")
WIKITEXT, MIXED = "wikitext2:first", "wikitext2:first,builtin"
#: quantizer, solver, calibration texts. The hqq rule chooses an offset for integers, so floats have no such row
ROWS = [
    *((w, s, WIKITEXT) for w in (*INTEGERS, *FLOATS) for s in ("rtn", "gptq:order=none", "gptq", "qep")),
    *((f"{w} hqq offset=float16", s, WIKITEXT) for w in INTEGERS for s in ("rtn", "gptq", "qep")),
    # what may help on text that the calibration does not resemble
    *((w, s, MIXED) for w in ("int4 g64", "nvfp4") for s in ("gptq", "qep")),
    *((w, "gptq", WIKITEXT) for w in ("int4 g64 mse", "int4 g64 absmax:7.5", "int4 g64 asym")),
    *(("int4 g64", s, WIKITEXT) for s in ("gptq:damping=0.1", "gptq:damping=1", "qep:inner=(gptq:damping=0.1)")),
    *(
        (w, "qep", WIKITEXT)
        for w in ("int4 g64 mse", "int4 g64 absmax:7.5", "int4 g64 asym", "int3 g64 mse", "int3 g64 asym", "int2 g64 asym")
    ),
]
Row = tuple[str, str, str]
TOKENS = {"screen": 8192, "final": 40960}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--stage", choices=TOKENS, default="screen")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--row-seconds", type=float, default=240.0, help="what a row may take at most, for deciding on a last one")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    rows = ROWS if options.stage == "screen" else best(options.results, 12)
    deadline = time.monotonic() + options.seconds
    waiting = [r for r in rows if not place(options.results, options.stage, r).is_file()]
    running: dict[int, tuple[subprocess.Popen[bytes], Row, int]] = {}
    free = list(range(options.jobs))
    while waiting or running:
        while waiting and free and time.monotonic() + options.row_seconds < deadline:
            slot, row = free.pop(), waiting.pop(0)
            process = start(options, row, slot)
            running[process.pid] = (process, row, slot)
        if not running:
            break
        pid, status, usage = os.wait4(-1, 0)
        process, row, slot = running.pop(pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        free.append(slot)
        finish(options, row, process.returncode, usage.ru_maxrss * 1024)
    print(markdown(options.results, options.stage))


def place(results: Path, stage: str, row: Row) -> Path:
    """The file of a row."""
    name = re.sub(r"[^A-Za-z0-9._]+", "-", "_".join(row))
    return results / f"{stage}_{name}.json"


def start(options: argparse.Namespace, row: Row, slot: int) -> subprocess.Popen[bytes]:
    """One row as a process on its own cores."""
    cores = range(slot * options.threads, (slot + 1) * options.threads)
    file = place(options.results, options.stage, row)
    command = [
        sys.executable, "-m", "lowbit.cli.main", "compare", options.model, "--weights", row[0], "--solvers", row[1],
        *(word for text in row[2].split(",") for word in ("--calibrate", text)), "--text", "wikitext2:second", "--text", "pydoc",
        "--max-tokens", str(TOKENS[options.stage]), "--device", options.device, "--json", f"{file}.part",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}

    def pin() -> None:
        if hasattr(os, "sched_setaffinity") and options.jobs > 1:
            os.sched_setaffinity(0, cores)

    with Path(f"{file}.log").open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, preexec_fn=pin)


def finish(options: argparse.Namespace, row: Row, code: int, peak: int) -> None:
    """Keep what a row has measured."""
    file = place(options.results, options.stage, row)
    if code != 0:
        print(f"{row[0]}, {row[1]}: exit code {code}, see {file}.log", file=sys.stderr)
        return
    found = json.loads(Path(f"{file}.part").read_text())
    file.write_text(json.dumps({"baseline": found["baseline"], "row": found["rows"][0], "peak": peak}, indent=1) + "\n")
    Path(f"{file}.part").unlink()


def loss(found: dict) -> float:
    """The mean over the texts of log(perplexity / original perplexity)."""
    texts, original = found["row"]["texts"], found["baseline"]["texts"]
    ratios = [(texts[t]["perplexity"] or math.inf) / original[t]["perplexity"] for t in original]
    return sum(math.log(r) for r in ratios) / len(ratios)


def best(results: Path, count: int) -> list[Row]:
    """The rows with the least loss in the screening."""
    found = [(loss(json.loads(f.read_text())), r) for r in ROWS if (f := place(results, "screen", r)).is_file()]
    return [r for _, r in sorted(found)[:count]]


def markdown(results: Path, stage: str) -> str:
    """The rows of a stage as a table."""
    found = [(r, json.loads(f.read_text())) for r in ROWS if (f := place(results, stage, r)).is_file()]
    if not found:
        return "no row is finished"
    original = found[0][1]["baseline"]["texts"]
    lines = [
        f"{stage}: {TOKENS[stage]} tokens of each text at most; original perplexity "
        + ", ".join(f"{t} {v['perplexity']:.3f}" for t, v in original.items()),
        "",
        "| weights | solver | calibration | bits/weight | " + " | ".join(f"{t} (x original) | KL" for t in original)
        + " | quantize s | peak MB |",
        "| --- | --- | --- | ---: |" + " ---: | ---: |" * len(original) + " ---: | ---: |",
    ]  # fmt: skip
    for (weights, solver, calibration), data in found:
        row = data["row"]
        cells = []
        for text, was in original.items():
            now = row["texts"][text]
            ratio = (now["perplexity"] or math.inf) / was["perplexity"]
            cells.append(f"{now['perplexity'] or math.inf:.4g} ({ratio:.4g}) | {now['kl']:.4f}")
        data_free = solver == "rtn"
        start = f"| {weights} | {solver} | {'-' if data_free else calibration} | {row['bits_per_weight']:.3f} | {' | '.join(cells)}"
        lines.append(f"{start} | {row['seconds']:.1f} | {data['peak'] / 1e6:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
