"""How long emulating a format takes against copying the tensor: ``python benchmarks/emulation.py [--quick]``.

16.8M elements, ``out=`` given, everything in one process and in interleaved rounds: in each round every candidate runs once beside
``y.copy_(x)``, so that what else the machine does meets all alike. Medians and minima of the rounds; the ratios are to the copy of
the same rounds. Peers return a fresh tensor and pay for its pages. The table goes to benchmarks/results/emulation.md.
"""

from __future__ import annotations

import argparse
import gc
import platform
import random
import re
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from peers.emulation import by_spec
from torch import Tensor

import lowbit
from lowbit.cli.doctor import cpu, cpu_target

RESULT = Path(__file__).parent / "results" / "emulation.md"
PEERS = "## Peers, float32, 2 threads"


def user_table(count: int = 256) -> str:
    """Numbers that nobody standardized."""
    draw = random.Random(0)
    return "table(" + ";".join(f"{v:.6f}" for v in sorted(draw.gauss(0, 1) for _ in range(count))) + ")"


#: spec -> most copies that it may take: on a busy machine, and where the copy takes under 3 ms
LIMITS = {
    **dict.fromkeys(
        ("float8_e4m3fn", "float8_e5m2", "bfloat16", "float4_e2m1fn", "mxfp8", "mxfp4", "nvfp4", "int4 g128", "int8"), (2.0, 3.0)
    ),
    **dict.fromkeys(("posit8_1", "hifloat8", "hif4", "float8_e4m3fn round=stochastic"), (3.0, 4.5)),
    **dict.fromkeys(("dynamic8", user_table()), (4.0, 6.0)),
}
FURTHER = (
    "int4 g128 asym", "nf4_single", "nf4", "fp8_tile", "bfloat16 round=stochastic", "afpq4", "ternary", "nvfp4_four_over_six", "bitmod4",
    "hifloat5", "float16 round=up", "posit16_2",
)  # fmt: skip


def rounds(ways: dict[str, Callable[[], object]], count: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each way in each round."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    gc.collect()
    began = time.perf_counter()
    for i in range(count):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(1e3 * (time.perf_counter() - start))
        if i >= 4 and time.perf_counter() - began > seconds:
            break
    return taken


def fits(function: Callable[[Tensor], object], x: Tensor) -> str | None:
    """Why a peer cannot be measured."""
    try:
        function(x[:16])
    except Exception as error:  # a peer's own failure is a line in the table, whatever it is
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    return None


def label(spec: str) -> str:
    return f"table of {spec.count(';') + 1} numbers" if spec.startswith("table") else spec


def measure(x: Tensor, threads: int, count: int, seconds: float, clock: float) -> list[list[str]]:
    """One row a spec: the median, the minimum, both in copies, and the minimum in nanoseconds and cycles (of ``clock`` MHz) an element."""
    torch.set_num_threads(threads)
    y = torch.empty_like(x)
    quantizers = {spec: lowbit.quantizer(spec) for spec in (*LIMITS, *FURTHER)}
    ways: dict[str, Callable[[], object]] = {"y.copy_(x)": lambda: y.copy_(x)}
    ways |= {spec: (lambda q=q: lowbit.fake_quantize(x, q, out=y)) for spec, q in quantizers.items()}
    taken = rounds(ways, count, seconds)
    copy = taken["y.copy_(x)"]
    base, least = statistics.median(copy), min(copy)
    rows = []
    for spec, times in taken.items():
        middle, shortest = statistics.median(times), min(times)
        limit = LIMITS[spec][base < 3.0] if spec in LIMITS and threads == 2 and x.dtype == torch.float32 else None
        verdict = "" if limit is None else f"{limit:.1f} {'kept' if middle / base <= limit else 'missed'}"
        nanoseconds = 1e6 * shortest / x.numel()
        times = [f"{middle:.2f}", f"{middle / base:.2f}", f"{shortest:.2f}", f"{shortest / least:.2f}", f"{nanoseconds:.3f}"]
        times.append(f"{nanoseconds * clock / 1e3:.2f}")
        rows.append([label(spec), *times, verdict])
    return rows


def measure_peers(x: Tensor, threads: int, seconds: float) -> list[list[str]]:
    """Each peer beside lowbit and the copy."""
    torch.set_num_threads(threads)
    y = torch.empty_like(x)
    rows = []
    for spec, peers in by_spec().items():
        q = lowbit.quantizer(spec)
        ways: dict[str, Callable[[], object]] = {"copy": lambda: y.copy_(x), "lowbit": lambda q=q: lowbit.fake_quantize(x, q, out=y)}
        for name, function in peers.items():
            reason = fits(function, x)
            if reason is None:
                ways[name] = lambda f=function: f(x)
            else:
                rows.append([spec, name, "", "", reason])
        taken = rounds(ways, 9, seconds)
        base = statistics.median(taken["copy"])
        own = statistics.median(taken["lowbit"])
        for name, times in taken.items():
            middle = statistics.median(times)
            if name != "copy":
                rows.append([spec, name, f"{middle:.1f}", f"{middle / base:.1f}", f"{middle / own:.1f}"])
    return rows


def megahertz(cpuinfo: str) -> float:
    """The clock that the system states, NaN where it states none."""
    found = re.search(r"^cpu MHz\s*:\s*([0-9.]+)", cpuinfo, re.MULTILINE)
    return float(found[1]) if found else float("nan")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, no peers, nothing written")
    parser.add_argument(
        "--part", choices=("all", "tables", "peers"), default="all", help="what is measured; the other part of the page stays"
    )
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--seconds", type=float, default=25.0, help="for each table")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    x = torch.randn(4096, 4096)
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    facts, target, clock = cpu(cpuinfo), cpu_target(), megahertz(cpuinfo)
    head = ["spec", "median ms", "copies", "least ms", "copies", "ns an element", "cycles an element", "limit"]
    parts = [
        "# Emulation against a copy",
        f"{facts['model']}, {facts['cores_allowed']} cores, Python {platform.python_version()}, torch {torch.__version__}, "
        f"kernels {target['target'] if target else 'reference'}; 4096 x 4096 elements, `out=` given, interleaved rounds of one process; "
        f"cycles of the stated {clock:.0f} MHz, of wall-clock time whatever the number of threads. "
        "Written by `python benchmarks/emulation.py`. The limits are in copies, for float32 and 2 threads: "
        "twice, three and four times where memory is busy, "
        "half as much again where the copy takes under 3 ms. Other work on the machine meets the copy and the rest alike, but not every "
        "round equally: the minima say what the code takes, the medians what was seen.",
    ]
    for name, data, counts in (("float32", x, (2, 1)), ("bfloat16", x.bfloat16(), (2, 1))):
        for threads in counts if arguments.part != "peers" else ():
            seconds, count = (5.0, 7) if arguments.quick else (arguments.seconds, arguments.rounds)
            wall, used = time.perf_counter(), time.process_time()
            text = table(head, measure(data, threads, count, seconds, clock))
            got = (time.process_time() - used) / (time.perf_counter() - wall)
            shared = f"The process got {got:.2f} of {threads} cores; the rest was taken by other work on the machine."
            parts += [f"## {name} in and out, {threads} thread{'s' * (threads > 1)}", shared, text]
            print(*parts[-3:], sep="\n\n", flush=True)
    if arguments.quick:
        return
    kept_tables, _, kept_peers = RESULT.read_text(encoding="utf-8").strip().partition(PEERS) if arguments.part != "all" else ("", "", "")
    tables = kept_tables.strip() if arguments.part == "peers" else "\n\n".join(parts)
    peers = kept_peers.strip()
    if arguments.part != "tables":
        rows = measure_peers(x, 2, arguments.seconds / 4)
        peers = f"{facts['model']}.\n\n" + table(["spec", "way", "median ms", "copies", "times lowbit"], rows)
        print(PEERS, peers, sep="\n\n")
    RESULT.write_text(f"{tables}\n\n{PEERS}\n\n{peers}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
