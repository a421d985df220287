"""Linear layers on packed codes against other kernels.

    python benchmarks/qlinear.py [--shapes 4096x4096] [--rows 1,16] [--threads 1] [--ways torch,own] [--quick]

For each shape, number of rows and number of threads, all in one process: ways to multiply are measured a few at a time, in interleaved
rounds with torch float32, which every ratio refers to; so a drift of the machine hits both sides. A way owns copies of its weight with
distinct contents that are visited in turn: more than 1.1 GB of them where there is one row, 400 MB up to 16 rows, so that weights come
from memory. The read bandwidth is that of a C++ loop over 400 MB, before and after each group. Peers that are not there are named.
A table replaces that of an earlier run in benchmarks/results/qlinear.json, with ``--ways`` its rows only; benchmarks/results/qlinear.md
is written from all of them. ``--quick`` measures few formats for a short time and writes nothing.
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
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peers.linear import Missing, Way, copies_of, float32_way, onnxruntime_ways, relative, torch_ways
from peers.linear_ggml import ggml_ways
from peers.linear_openvino import openvino_ways
from torch import Tensor

import lowbit
from lowbit.cli.doctor import cpu, cpu_target
from lowbit.kernels.cpu import qlinear, qlinear_int8
from lowbit.kernels.cpu.linear_layout import PackedLinear, prepare
from lowbit.kernels.op import extension
from lowbit.quantizers.linear_lowering import linear_spec

RESULTS = Path(__file__).parent / "results"
#: other kernels by the word that names them
PEERS = {"torch": torch_ways, "onnxruntime": onnxruntime_ways, "openvino": openvino_ways, "ggml": ggml_ways}

#: ways that are measured together, so that their copies fit into memory
TOGETHER = 5

DRAW = random.Random(0)
USER_TABLE = "table(" + ";".join(f"{v:.4f}" for v in sorted(DRAW.gauss(0, 1) for _ in range(16))) + ") g32"

#: spec -> share of the read bandwidth that one row should reach
FLOAT = {
    "int4 g32": 0.85, "int4 g128": 0.85, "nvfp4": 0.85, "mxfp4": 0.85, "nf4": 0.85, USER_TABLE: 0.85, "int8 row": 0.85,
    "float8_e4m3fn row": 0.85, "int2 g64": 0.6, "ternary": 0.6, "hif4": None, "int3 g64": None, "mxfp6_e2m3": None,
}  # fmt: skip
WHOLE = ("int4 g32", "int4 g128", "int8 row", "ternary")
QUICK = ("int4 g32", "nvfp4", "int8 row", "ternary")


def label(spec: str) -> str:
    return "a user's table of 16 numbers g32" if spec.startswith("table") else spec


def enough(rows: int) -> int:
    """Bytes that the copies of a way take, so that weights come from memory where that counts."""
    return 1_100_000_000 if rows == 1 else 400_000_000 if rows <= 16 else 1


def copies(packed: PackedLinear, enough: int) -> list[PackedLinear]:
    """The same weight with its tiles in other orders, so that no two copies are equal."""
    made = [packed]
    for i in range(1, copies_of(packed.nbytes, enough)):
        scale = dataclasses.replace(packed.scale, data=packed.scale.data.roll(i, 0))
        offset = None if packed.offset is None else dataclasses.replace(packed.offset, data=packed.offset.data.roll(i, 0))
        made.append(dataclasses.replace(packed, words=packed.words.roll(i, 0), scale=scale, offset=offset))
    return made


def own_ways(W: Tensor, x: Tensor, enough: int, specs: Iterable[str]) -> Iterator[Way]:
    """Ours: every format with float32 activations, some with int8 ones."""
    for spec in specs:
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


@lru_cache
def parts_of_memory(threads: int) -> list[Tensor]:
    """400 MB, a part for each thread."""
    return [torch.ones(400_000_000 // threads // 4, dtype=torch.int32) for _ in range(threads)]


def read_rate(threads: int) -> float:
    """GB/s of plain reading, the best of several."""
    module: Any = extension("lowbit._cpu")
    parts = parts_of_memory(threads)
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


def burst(way: Way, at: int) -> tuple[int, list[float]]:
    """A few calls in a row with seconds a product; the first is not counted: it wakes its threads, and lets those of others stop."""
    way.run(at % way.copies)
    taken: list[float] = []
    while len(taken) < 6 and sum(taken) * way.calls < 0.05:
        at += 1
        start = time.perf_counter()
        way.run(at % way.copies)
        taken.append((time.perf_counter() - start) / way.calls)
    return at + 1, taken


def measure(ways: list[Way], seconds: float) -> list[float]:
    """Median seconds of a product, in interleaved rounds."""
    taken: list[list[float]] = [[] for _ in ways]
    at = [0] * len(ways)
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 2 or time.perf_counter() < end:
        for k, way in enumerate(ways):
            at[k], more = burst(way, at[k]) if way.thread is None else way.thread.submit(burst, way, at[k]).result()
            taken[k] += more
        rounds += 1
    return [statistics.median(t) for t in taken]


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def case(shape: tuple[int, int], rows: int, threads: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One table: every way with its time, that of torch float32 beside it, bytes, errors and the read rate at that time."""
    torch.set_num_threads(threads)
    columns, outputs = shape
    W, x = torch.randn(outputs, columns) * 0.02, torch.randn(rows, columns)
    size, chosen, lines, missing = enough(rows), arguments.ways.split(","), [], []
    specs = QUICK if arguments.quick else tuple(FLOAT)
    base = float32_way(W, x, size)
    for name in chosen:
        ways = own_ways(W, x, size, specs) if name == "own" else PEERS[name](W, x, size, threads)
        try:
            while group := list(islice(ways, TOGETHER)):
                lines += together(name, group, base, threads, arguments.seconds)
        except Missing as reason:
            missing.append(str(reason))
    return {"shape": f"{columns}x{outputs}", "rows": rows, "threads": threads, "missing": missing, "ways": lines}


def together(family: str, group: list[Way], base: Way, threads: int, seconds: float) -> list[dict[str, Any]]:
    """Measure a few ways beside the one that they are compared with; their memory is free afterwards."""
    before = read_rate(threads)
    first, *times = measure([base, *group], seconds)
    rate = max(before, read_rate(threads))
    own = {"family": family, "read": rate, "base": first}
    lines = [{"name": w.name, "nbytes": w.nbytes, "seconds": t, "error": w.error} | own for w, t in zip(group, times, strict=True)]
    for way in group:
        way.free()
    group.clear()
    gc.collect()
    return lines


def merged(new: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
    """Rows that were not measured again stay."""
    families = [*PEERS, "own"]
    measured = {w["family"] for w in new["ways"]}
    kept = [] if old is None else [w for w in old["ways"] if w["family"] not in measured]
    return new | {"ways": sorted(kept + new["ways"], key=lambda w: families.index(w["family"]))}


def written(case: dict[str, Any]) -> str:
    """A table as Markdown."""
    columns, outputs = map(int, case["shape"].split("x"))
    targets = {label(spec): share for spec, share in FLOAT.items()}
    best = max((w["base"] / w["seconds"] for w in case["ways"] if w["family"] != "own"), default=None)
    base, rows = statistics.median(w["base"] for w in case["ways"]), []
    for w in [{"name": "torch float32", "nbytes": 4 * columns * outputs, "seconds": base, "base": base, "family": "", "error": 0.0,
               "read": max(w["read"] for w in case["ways"])}, *case["ways"]]:  # fmt: skip
        t, ratio = w["seconds"], w["base"] / w["seconds"]
        share = w["nbytes"] / t / 1e9 / w["read"]
        wanted = targets.get(w["name"]) if case["rows"] == 1 else None
        verdict = "" if wanted is None else f"{'reached' if share >= wanted else 'missed'} {wanted:.0%}"
        rows.append(
            [w["name"], f"{1e6 * t:.0f}", f"{8 * w['nbytes'] / columns / outputs:.2f}", f"{w['nbytes'] / t / 1e9:.1f}", f"{share:.0%}",
             f"{2e-9 * case['rows'] * columns * outputs / t:.0f}", f"{ratio:.2f}",
             f"{ratio / best:.2f}" if best and w["family"] == "own" else "", f"{w['error']:.0e}", verdict]
        )  # fmt: skip
    head = ["way", "us", "bits a weight", "GB/s", "of reading", "GFlop/s", "x torch float32", "x best peer", "error", "wanted"]
    title = f"## {case['shape']}, {case['rows']} row{'s' * (case['rows'] > 1)}, {case['threads']} thread{'s' * (case['threads'] > 1)}"
    rates = [w["read"] for w in case["ways"]]
    told = [f"Reading: {min(rates):.1f} to {max(rates):.1f} GB/s.", *(f"Not measured: {reason}." for reason in case["missing"])]
    return f"{title}\n\n{' '.join(told)}\n\n{table(head, rows)}"


def write(cases: list[dict[str, Any]]) -> None:
    """The page of results."""
    facts, target = cpu(Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""), cpu_target()
    about = (
        f"{facts['model']} ({', '.join(facts['instruction_sets'])}), {len(os.sched_getaffinity(0))} cores allowed, Python "
        f"{platform.python_version()}, torch {torch.__version__}, kernels {target['target'] if target else 'none'}. Shapes are in x out. "
        "Medians of interleaved rounds in one process, a few ways at a time beside torch float32, to which ratios refer; the error is the "
        "norm of the difference to float64 on the numbers that a way holds, relative. Weights rotate over 1.1 GB a way for one row and 400 "
        "MB for up to 16, so that they come from memory; those of more rows may stay in a cache. Written by `python benchmarks/qlinear.py`."
    )
    parts = ["# Linear layers on packed codes", about, *map(written, cases)]
    (RESULTS / "qlinear.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default="4096x4096,4096x11008,2048x5632", help="in x out")
    parser.add_argument("--rows", default="1,4,16,128,512")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each group of up to five ways")
    parser.add_argument("--ways", default=",".join((*PEERS, "own")), help="whose ways to measure; earlier rows of the others stay")
    parser.add_argument("--quick", action="store_true", help="few formats, 1.5 seconds a group, nothing written")
    a = parser.parse_args()
    if unknown := set(a.ways.split(",")) - {*PEERS, "own"}:
        parser.error(f"--ways {','.join(unknown)}: there are {', '.join((*PEERS, 'own'))}")
    a.seconds = min(a.seconds, 1.5) if a.quick else a.seconds
    warnings.filterwarnings("ignore")
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    stored = RESULTS / "qlinear.json"
    known = {} if not stored.exists() else {(c["shape"], c["rows"], c["threads"]): c for c in json.loads(stored.read_text())}
    for threads in map(int, a.threads.split(",")):
        for shape in a.shapes.split(","):
            for rows in map(int, a.rows.split(",")):
                columns, outputs = map(int, shape.split("x"))
                made = case((columns, outputs), rows, threads, a)
                print(written(made) if made["ways"] else made["missing"], flush=True)
                if a.quick or not made["ways"]:
                    continue
                known[shape, rows, threads] = merged(made, known.get((shape, rows, threads)))
                ordered = [known[key] for key in sorted(known, key=lambda k: (k[2], k[0], k[1]))]
                stored.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
                write(ordered)


if __name__ == "__main__":
    main()
