"""Linear layers on packed codes against other kernels: ``python benchmarks/qlinear.py [--shapes 4096x4096] [--rows 1,16] [--threads 1]``.

Everything of one shape, one number of rows and one number of threads runs in one process in interleaved rounds. Up to 16 rows every way
owns more than 300 MB of copies with distinct contents that are visited in turn, so that weights come from memory. The read bandwidth is
that of a C++ loop over 400 MB in the same process, before and after. Rows of the table replace those of earlier runs in
benchmarks/results/qlinear.json, and benchmarks/results/qlinear.md is written from all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import platform
import random
import statistics
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peers.linear import Way, copies_of, onnxruntime_ways, relative, torch_ways
from torch import Tensor

import lowbit
from lowbit.cli.doctor import cpu, cpu_target
from lowbit.kernels.cpu import qlinear, qlinear_int8
from lowbit.kernels.cpu.linear_layout import PackedLinear, prepare
from lowbit.kernels.op import extension
from lowbit.quantizers.linear_lowering import linear_spec

RESULTS = Path(__file__).parent / "results"
ENOUGH = 320_000_000

DRAW = random.Random(0)
USER_TABLE = "table(" + ";".join(f"{v:.4f}" for v in sorted(DRAW.gauss(0, 1) for _ in range(16))) + ") g32"

#: spec -> share of the read bandwidth that one row should reach
FLOAT = {
    "int4 g32": 0.85, "int4 g128": 0.85, "nvfp4": 0.85, "mxfp4": 0.85, "nf4": 0.85, USER_TABLE: 0.85, "int8 row": 0.85,
    "float8_e4m3fn row": 0.85, "int2 g64": 0.6, "ternary": 0.6, "hif4": None, "int3 g64": None, "mxfp6_e2m3": None,
}  # fmt: skip
WHOLE = ("int4 g32", "int8 row", "ternary")


def label(spec: str) -> str:
    return "a user's table of 16 numbers g32" if spec.startswith("table") else spec


def copies(packed: PackedLinear, enough: int) -> list[PackedLinear]:
    """The same weight with its tiles in other orders, so that no two copies are equal."""
    made = [packed]
    for i in range(1, copies_of(packed.nbytes, enough)):
        scale = dataclasses.replace(packed.scale, data=packed.scale.data.roll(i, 0))
        offset = None if packed.offset is None else dataclasses.replace(packed.offset, data=packed.offset.data.roll(i, 0))
        made.append(dataclasses.replace(packed, words=packed.words.roll(i, 0), scale=scale, offset=offset))
    return made


def own_ways(W: Tensor, x: Tensor, enough: int) -> Iterator[Way]:
    """Ours: every format with float32 activations, some with int8 ones."""
    for spec in FLOAT:
        q = lowbit.quantizer(spec).quantize(W)
        told = linear_spec(q)
        assert not isinstance(told, str), told
        made = copies(prepare(told), enough)
        out = torch.empty(len(x), len(W))
        for kernel, name in ((qlinear, label(spec)), (qlinear_int8, f"{label(spec)}, int8 activations")):
            if kernel is qlinear_int8 and spec not in WHOLE:
                continue

            def run(i: int, kernel: Any = kernel, made: list[PackedLinear] = made, out: Tensor = out) -> None:
                kernel.run(x, made[i], None, out)

            run(0)
            yield Way(name, made[0].nbytes, run, len(made), error=relative(out, x, told.dequantize()))


def read_rate(threads: int) -> float:
    """GB/s of plain reading, the best of several."""
    module: Any = extension("lowbit._cpu")
    parts = [torch.ones(400_000_000 // threads // 4, dtype=torch.int32) for _ in range(threads)]
    best = 0.0
    for _ in range(5):
        others = [threading.Thread(target=module.read_all, args=(p.data_ptr(), 4 * p.numel())) for p in parts]
        start = time.perf_counter()
        for one in others:
            one.start()
        for one in others:
            one.join()
        best = max(best, 4 * sum(p.numel() for p in parts) / (time.perf_counter() - start))
    return best / 1e9


def measure(ways: list[Way], seconds: float) -> list[float]:
    """Median seconds of a product, in interleaved rounds of a few calls each."""
    taken: list[list[float]] = [[] for _ in ways]
    at = [0] * len(ways)
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 2 or time.perf_counter() < end:
        for k, way in enumerate(ways):
            way.run(at[k] % way.copies)  # not counted: wakes its threads, lets those of others stop
            spent, calls = 0.0, 0
            while calls < 6 and spent < 0.05:
                at[k] += 1
                start = time.perf_counter()
                way.run(at[k] % way.copies)
                spent, calls = spent + time.perf_counter() - start, calls + 1
                taken[k].append((time.perf_counter() - start) / way.calls)
        rounds += 1
    return [statistics.median(t) for t in taken]


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def case(shape: tuple[int, int], rows: int, threads: int, seconds: float) -> dict[str, Any]:
    """One table: every way with its time, bytes a second and errors."""
    torch.set_num_threads(threads)
    columns, outputs = shape
    W, x = torch.randn(outputs, columns) * 0.02, torch.randn(rows, columns)
    enough = ENOUGH if rows <= 16 else 1
    before = read_rate(threads)
    ways = [*torch_ways(W, x, enough), *onnxruntime_ways(W, x, enough, threads), *own_ways(W, x, enough)]
    gc.collect()
    times = measure(ways, seconds)
    lines = [{"name": w.name, "nbytes": w.nbytes, "seconds": t, "error": w.error} for w, t in zip(ways, times, strict=True)]
    return {"shape": f"{columns}x{outputs}", "rows": rows, "threads": threads, "read": [before, read_rate(threads)], "ways": lines}


def written(case: dict[str, Any]) -> str:
    """A table as Markdown."""
    rate, base = max(case["read"]), case["ways"][0]["seconds"]
    rows = []
    columns, outputs = map(int, case["shape"].split("x"))
    targets = {label(spec): share for spec, share in FLOAT.items()}
    peers = [w["seconds"] for w in case["ways"] if w["name"].startswith(("torch", "onnxruntime"))]
    for w in case["ways"]:
        t, share = w["seconds"], w["nbytes"] / w["seconds"] / 1e9 / rate
        wanted = targets.get(w["name"]) if case["rows"] == 1 else None
        verdict = "" if wanted is None else f"{'reached' if share >= wanted else 'missed'} {wanted:.0%}"
        ours = not w["name"].startswith(("torch", "onnxruntime"))
        rows.append(
            [w["name"], f"{1e6 * t:.0f}", f"{8 * w['nbytes'] / columns / outputs:.2f}", f"{w['nbytes'] / t / 1e9:.1f}", f"{share:.0%}",
             f"{2e-9 * case['rows'] * columns * outputs / t:.0f}", f"{base / t:.2f}", f"{min(peers) / t:.2f}" if ours else "",
             f"{w['error']:.0e}", verdict]
        )  # fmt: skip
    head = ["way", "us", "bits a weight", "GB/s", "of reading", "GFlop/s", "x torch float32", "x best peer", "error", "wanted"]
    title = f"## {case['shape']}, {case['rows']} row{'s' * (case['rows'] > 1)}, {case['threads']} thread{'s' * (case['threads'] > 1)}"
    return f"{title}\n\nReading: {case['read'][0]:.1f} GB/s before, {case['read'][1]:.1f} after.\n\n{table(head, rows)}"


def write(cases: list[dict[str, Any]]) -> None:
    """The page of results."""
    facts, target = cpu(Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""), cpu_target()
    about = (
        f"{facts['model']} ({', '.join(facts['instruction_sets'])}), {len(os.sched_getaffinity(0))} cores allowed, Python "
        f"{platform.python_version()}, torch {torch.__version__}, kernels {target['target'] if target else 'none'}. Shapes are in x out. "
        "Medians of interleaved rounds in one process; the error is the norm of the difference to float64 on the same numbers, relative. "
        "Weights of up to 16 rows come from memory, those of more rows may stay in a cache. Written by `python benchmarks/qlinear.py`."
    )
    parts = ["# Linear layers on packed codes", about, *map(written, cases)]
    (RESULTS / "qlinear.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default="4096x4096,4096x11008,2048x5632", help="in x out")
    parser.add_argument("--rows", default="1,4,16,128,512")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each table")
    a = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    stored = RESULTS / "qlinear.json"
    known = {} if not stored.exists() else {(c["shape"], c["rows"], c["threads"]): c for c in json.loads(stored.read_text())}
    for threads in map(int, a.threads.split(",")):
        for shape in a.shapes.split(","):
            for rows in map(int, a.rows.split(",")):
                columns, outputs = map(int, shape.split("x"))
                known[shape, rows, threads] = case((columns, outputs), rows, threads, a.seconds)
                print(written(known[shape, rows, threads]), flush=True)
                ordered = [known[key] for key in sorted(known, key=lambda k: (k[2], k[0], k[1]))]
                stored.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
                write(ordered)


if __name__ == "__main__":
    main()
