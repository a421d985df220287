"""Kernels on a CUDA device: every one against the torch reference, then its time beside what torch has, in one run.

    python benchmarks/gpu.py --out benchmarks/results/gpu

Times are medians of replays of a CUDA graph; weights are rotated, so that none is in the second-level cache when its turn comes. Nothing
is compared across runs: the copy, the products of torch and PyTorch's own int4 linear are timed in the same one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton

import lowbit
from lowbit.errors import ShapeError
from lowbit.kernels.op import DEQUANTIZE, QUANTIZE, backend
from lowbit.kernels.triton import linear_layout, qlinear
from lowbit.kernels.triton.linear_layout import PackedLinear
from lowbit.philox import Key
from lowbit.quantizers.linear_lowering import linear_spec
from lowbit.quantizers.spec import quantizer
from lowbit.testing.formats import same_bits

DEVICE = "cuda"
EMULATED = (
    "mxfp4", "mxfp6", "mxfp8", "mxint8", "nvfp4", "int4 g32", "int4 g128", "int4 g64 asym", "int8 row", "fp8 tensor", "fp8 row",
    "fp8 128x128", "nf4_element g64", "nf4", "posit8_1 g64", "hifloat4", "e2m1 g16 four_over_six", "int3 g64 sign_split",
    "float8_e4m3fn", "bfloat16", "posit16_2 cast", "mxfp4 round=stochastic", "nvfp4 round=stochastic", "int4 g32 round=stochastic",
    "float8_e4m3fn round=stochastic", "bfloat16 round=stochastic",
)  # fmt: skip
SHAPES = ((4096, 4096), (11008, 4096), (4096, 11008), (28672, 8192))
ROWS = (1, 4, 16, 64, 256, 2048)
LINEARS = {
    "int4 g128": ROWS, "nvfp4": ROWS, "mxfp4": (1, 16), "nf4_element g64": (1, 16), "table(-1;-0.6;-0.3;-0.1;0;0.2;0.5;1) g128": (1, 16),
    "fp8 row": (1, 16), "int8 row": (1, 16),
}  # fmt: skip

#: bytes that are rotated through: several times the second-level cache
ROTATED = 200e6


def median_ms(run: Callable[[int], object], count: int, repeats: int = 7) -> float:
    """Of one of ``count`` runs, from replays of a graph of all of them."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(min(count, 3)):
            run(i)
    torch.cuda.synchronize()
    graph, rounds = torch.cuda.CUDAGraph(), max(1, 30 // count)
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for i in range(count):
                run(i)
    graph.replay()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / count / rounds)
    return statistics.median(times)


def ceilings() -> dict[str, float]:
    """What the device does at best: bytes a second of a copy, operations a second of products of 8192 x 8192 x 8192."""
    n = 1 << 28
    x = torch.randn(n, device=DEVICE).bfloat16()
    y = torch.empty_like(x)
    times = []
    for _ in range(12):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        y.copy_(x)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    found = {"copy GB/s": 4 * n / statistics.median(times) / 1e6}
    del x, y
    n = 8192
    a, b = torch.randn(n, n, device=DEVICE).bfloat16(), torch.randn(n, n, device=DEVICE).bfloat16()
    found["bf16 TFLOP/s"] = 2 * n**3 / median_ms(lambda _: a @ b.T, 1) / 1e9
    a8, b8, one = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn), torch.ones((), device=DEVICE)
    found["fp8 TFLOP/s"] = 2 * n**3 / median_ms(lambda _: torch._scaled_mm(a8, b8.T, one, one, out_dtype=torch.bfloat16), 1) / 1e9
    ai, bi = (torch.randint(-128, 127, (n, n), device=DEVICE, dtype=torch.int8) for _ in range(2))
    found["int8 TOP/s"] = 2 * n**3 / median_ms(lambda _: torch._int_mm(ai, bi.T), 1) / 1e9
    return found


def emulation_is_right(spec: str) -> bool:
    """Numbers of every dtype, NaN and Inf among them, on an odd shape, against the reference bit for bit."""
    right = True
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(26, 384, device=DEVICE) * torch.exp2(torch.randint(-6, 7, (26, 1), device=DEVICE))
        x[0, :64], x[1, 3], x[2, 5], x[3, 1] = 0.0, torch.nan, -torch.inf, -0.0
        x = x.to(dtype)
        if "128x128" in spec:
            x = x.repeat(10, 1)[:256]
        key = Key(7, "benchmark")
        try:
            with backend("reference"):
                expected = lowbit.fake_quantize(x, spec, key=key)
        except ShapeError:
            continue
        out = torch.full_like(x, torch.nan)
        with backend("triton"):
            lowbit.fake_quantize(x, spec, out, key=key)
        right &= bool(same_bits(out.float(), expected.float()).all())
    return right


def emulation(copy: float) -> list[dict[str, Any]]:
    rows, n = [], 1 << 28
    x = torch.randn(n // 4096, 4096, device=DEVICE).bfloat16()
    y = torch.empty_like(x)
    for spec in EMULATED:
        q = quantizer(spec)
        try:
            right = emulation_is_right(spec)
            ms = median_ms(lambda _, q=q: lowbit.fake_quantize(x, q, y), 1)
            rows.append({"spec": spec, "same bits": right, "ms": ms, "GB/s": 4 * n / ms / 1e6, "of the copy": 4 * n / ms / 1e6 / copy})
        except Exception as error:
            rows.append({"spec": spec, "failed": f"{type(error).__name__}: {str(error)[-160:]}"})
        print(rows[-1], flush=True)
    for spec in ("mxfp4", "nvfp4", "int4 g128"):
        q = quantizer(spec)
        told = (x, q.lowered, None)  # type: ignore[attr-defined]
        kernel = QUANTIZE.kernel(*told)
        if kernel is None:
            continue
        ms = median_ms(lambda _, kernel=kernel, told=told: kernel.run(*told), 1)
        rows.append({"spec": f"{spec}: codes and scales", "ms": ms, "GB/s": 3 * n / ms / 1e6, "of the copy": 3 * n / ms / 1e6 / copy})
        print(rows[-1], flush=True)
        small = q.quantize(x[: n // 4096 // 4])
        grid = small.grid
        decode = DEQUANTIZE.kernel(small.codes, linear_table(spec), grid.blocks, grid.units())  # type: ignore[attr-defined]
        if decode is not None:
            told = (small.codes, linear_table(spec), grid.blocks, grid.units())  # type: ignore[attr-defined]
            ms = median_ms(lambda _, decode=decode, told=told: decode.run(*told), 1)
            rate = 5 * n / 4 / ms / 1e6
            rows.append({"spec": f"{spec}: codes to float32", "ms": ms, "GB/s": rate, "of the copy": rate / copy})
            print(rows[-1], flush=True)
    return rows


def linear_table(spec: str) -> torch.Tensor:
    """The numbers of the codes of a scheme."""
    return quantizer(spec).lowered.numbers.decoded  # type: ignore[attr-defined, no-any-return]


def packed(spec: str, rows: int, columns: int) -> tuple[PackedLinear, torch.Tensor]:
    """A random weight and what it decodes to."""
    W = torch.randn(rows, columns, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(3)) * 0.02
    told = linear_spec(quantizer(spec).quantize(W))
    if isinstance(told, str):
        raise ValueError(told)
    return linear_layout.run(told), told.dequantize()


def linear_errors(spec: str) -> float:
    """The largest relative error (Frobenius) of products with odd numbers of rows, outputs filled with NaN."""
    worst = 0.0
    for rows, columns in ((200, 1024), (48, 1408)):
        weight, dense = packed(spec, rows, columns)
        bias = torch.randn(rows, device=DEVICE)
        for m in (1, 7, 13, 29, 61, 200):
            x = torch.randn(m, columns, device=DEVICE).bfloat16()
            y = torch.full((m, rows), torch.nan, device=DEVICE, dtype=x.dtype)
            qlinear.run(x, weight, bias, y)
            expected = x.double() @ dense.double().T + bias
            error = float((y.double() - expected).norm() / expected.norm())
            worst = max(worst, error) if error == error else float("inf")
    return worst


def rotated(weight: PackedLinear) -> list[PackedLinear]:
    count = max(2, int(ROTATED / weight.nbytes) + 1)
    copies = [dataclasses.replace(weight, words=weight.words.clone(), scale=weight.scale.clone()) for _ in range(count - 1)]
    return [weight, *copies]


def dense_ms(inputs: dict[int, torch.Tensor], rows: int) -> dict[int, float]:
    """What torch takes with a weight in bfloat16, by rows of x."""
    columns = inputs[1].shape[1]
    dense = [torch.randn(rows, columns, device=DEVICE).bfloat16() for _ in range(max(2, int(ROTATED / (2 * rows * columns)) + 1))]
    return {m: median_ms(lambda i, x=x: torch.nn.functional.linear(x, dense[i]), len(dense)) for m, x in inputs.items()}


def pytorch_int4_ms(inputs: dict[int, torch.Tensor], rows: int) -> dict[int, float]:
    """What its own int4 linear takes, by rows of x; nothing where it does not run."""
    columns, count = inputs[1].shape[1], int(ROTATED / (rows * inputs[1].shape[1] / 2)) + 1
    try:
        codes = [torch.randint(0, 255, (rows, columns // 2), device=DEVICE, dtype=torch.uint8) for _ in range(count)]
        tiled = [torch.ops.aten._convert_weight_to_int4pack(c, 8) for c in codes]
        scales = torch.randn(columns // 128, rows, 2, device=DEVICE).bfloat16()
        product = torch.ops.aten._weight_int4pack_mm
        return {m: median_ms(lambda i, m=m: product(inputs[m], tiled[i], 128, scales), count) for m in (1, 4, 16, 64)}
    except RuntimeError as error:
        print(f"PyTorch int4: {str(error)[-200:]}", flush=True)
        return {}


def linears(limit: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    errors = {}
    for spec in LINEARS:
        try:
            errors[spec] = linear_errors(spec)
        except Exception as error:
            print(f"{spec}: {type(error).__name__}: {str(error)[-200:]}", flush=True)
        print(spec, "error", errors.get(spec), flush=True)
    begun = time.time()
    for rows, columns in SHAPES:
        inputs = {m: torch.randn(m, columns, device=DEVICE).bfloat16() for m in ROWS}
        base = dense_ms(inputs, rows)
        shape = {"shape": f"{rows}x{columns}"}
        for m, ms in pytorch_int4_ms(inputs, rows).items():
            found.append(shape | {"M": m, "weights": "PyTorch int4 g128", "us": ms * 1e3, "of bf16": base[m] / ms})
        for spec, several in LINEARS.items():
            if spec not in errors or (time.time() - begun > limit and len(several) < 3):
                continue
            weights = rotated(packed(spec, rows, columns)[0])
            for m in several:
                x, y = inputs[m], torch.empty(m, rows, device=DEVICE, dtype=torch.bfloat16)
                ms = median_ms(lambda i, x=x, y=y, weights=weights: qlinear.run(x, weights[i], None, y), len(weights))
                row = {"M": m, "weights": spec, "us": ms * 1e3, "of bf16": base[m] / ms, "bf16 us": base[m] * 1e3, "error": errors[spec]}
                found.append(shape | row)
            print(f"{rows}x{columns} {spec}: " + ", ".join(f"M={f['M']} {f['of bf16']:.2f}x" for f in found[-len(several) :]), flush=True)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def cell(value: object) -> str:
        return str(value) if not isinstance(value, float) else f"{value:.3g}" if value < 100 else f"{value:.0f}"

    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(cell(row.get(name, "")) for name in names) + " |" for row in rows)])


def report(result: dict[str, Any]) -> str:
    """The tables of a run."""
    versions = result["versions"]
    parts = [f"# {versions['device']}", ", ".join(f"{k} {v}" for k, v in versions.items() if k != "device")]
    parts += ["Written by `python benchmarks/gpu.py`; medians of replays of a CUDA graph, weights rotated past the second-level cache."]
    parts += ["Ratios are within one run; emulation and linears may be of two (`--only`)."]
    if "ceilings" in result:
        parts += [table([result["ceilings"]]), "## Emulation: 2**28 numbers of bfloat16 in and out", table(result["emulation"])]
        parts += ["GB/s count each number once in and once out; scales under one number of the whole tensor need one more read of it."]
    if "linears" in result:
        parts += ["## Linears: times as fast as torch with the weight in bfloat16", table(result["linears"])]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu"))
    parser.add_argument("--limit", type=float, default=1e9, help="seconds of linears after which only the first formats are timed")
    parser.add_argument("--only", choices=("emulation", "linears"), help="leave the other part out; its old results stay in the tables")
    arguments = parser.parse_args()
    versions = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }
    limits = ceilings()
    print(versions, limits, flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / f"{versions['device'].replace(' ', '_')}.json"
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    result |= {"versions": versions}
    if arguments.only != "linears":
        result |= {"ceilings": limits, "emulation": emulation(limits["copy GB/s"])}
    if arguments.only != "emulation":
        result |= {"linears": linears(arguments.limit)}
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(report(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
