"""lowbit doctor: what this computer has for low-precision work, and what will be slow."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lowbit.kernels.op import extension

#: what /proc/cpuinfo calls an instruction set -> its usual name; the sets that low-precision kernels use
FLAGS = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "avx512_vbmi": "AVX-512 VBMI",
    "amx_tile": "AMX",
    "amx_int8": "AMX INT8",
    "amx_bf16": "AMX BF16",
    "asimd": "NEON",
    "asimddp": "NEON dot product",
    "i8mm": "NEON int8 matrix product",
    "bf16": "NEON BF16",
    "sve": "SVE",
}

REQUIRED = ("torch", "numpy", "safetensors", "scipy", "typer", "rich")

#: package -> what it is for
OPTIONAL = {
    "transformers": "Hugging Face models",
    "tokenizers": "tokenizers of Hugging Face models",
    "gguf": "GGUF files",
    "accelerate": "GGUF files through transformers",
    "jinja2": "chat templates and reports",
    "plotly": "charts",
    "triton": "GPU kernels",
    "onnx": "ONNX files",
    "ray": "sweeps over several computers",
}


def cpu(cpuinfo: str = "") -> dict[str, Any]:
    """Model name, instruction sets and cores, from the text of /proc/cpuinfo where there is one."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    present = set((fields.get("flags") or fields.get("Features") or "").split())
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": fields.get("model name") or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "instruction_sets": [name for flag, name in FLAGS.items() if flag in present],
        "instruction_sets_known": bool(present),
        "cores": os.cpu_count(),
        "cores_allowed": allowed,
    }


def memory_gib() -> float | None:
    """Memory of the computer in GiB, None where the system does not tell."""
    if not hasattr(os, "sysconf") or not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= os.sysconf_names.keys():
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def gpus() -> list[dict[str, Any]]:
    """The CUDA devices that torch sees."""
    found = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(i)
        found.append({"name": facts.name, "memory_gib": facts.total_memory / 2**30, "capability": f"{facts.major}.{facts.minor}"})
    return found


def version(package: str) -> str | None:
    """The installed version of a package, None where it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_target() -> dict[str, Any] | None:
    """The instruction set that the C++ extension uses, those that it could, and why not others; None where it was not built."""
    module: Any = extension("lowbit._cpu")
    return None if module is None else {"target": module.target(), "targets": module.targets(), "refused": module.refused_targets()}


def slow(facts: dict[str, Any]) -> list[str]:
    """What will be slow here, each with the reason."""
    found = []
    sets = set(facts["cpu"]["instruction_sets"])
    if not facts["extension"]:
        found.append("the C++ extension was not built: quantizing runs on the torch reference; `pip install .` in the sources builds it")
    if not facts["gpus"]:
        found.append("no CUDA device: models of more than about a billion weights take long")
    elif facts["optional"]["triton"] is None:
        found.append("a CUDA device, but no triton: no GPU kernels")
    if facts["cpu"]["instruction_sets_known"] and facts["cpu"]["machine"] in ("x86_64", "AMD64"):
        if "AVX2" not in sets:
            found.append("a CPU without AVX2: everything")
        elif not sets & {"AVX-512 BF16", "AMX BF16"}:
            found.append("a CPU without bfloat16 products: models in bfloat16 run slower than in float32")
        if not sets & {"AVX-512 VNNI", "AVX VNNI", "AMX INT8"}:
            found.append("a CPU without VNNI: int8 products")
    allowed = facts["cpu"]["cores_allowed"]
    if allowed and facts["torch_threads"] > allowed:
        found.append(f"torch uses {facts['torch_threads']} threads on {allowed} cores; set OMP_NUM_THREADS={allowed}")
    return found


def survey() -> dict[str, Any]:
    """Everything that the command prints."""
    cpuinfo = Path("/proc/cpuinfo")
    facts: dict[str, Any] = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu(cpuinfo.read_text() if cpuinfo.exists() else ""),
        "memory_gib": memory_gib(),
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus(),
        "packages": {name: version(name) for name in ("lowbit", *REQUIRED)},
        "optional": {name: version(name) for name in OPTIONAL},
        "extension": cpu_target(),
    }
    facts["slow"] = slow(facts)
    return facts


def text(facts: dict[str, Any]) -> str:
    """The survey for reading."""
    own = facts["cpu"]
    sets = ", ".join(own["instruction_sets"]) or ("none of those that kernels use" if own["instruction_sets_known"] else "not known here")
    memory = "not known here" if facts["memory_gib"] is None else f"{facts['memory_gib']:.1f} GiB"
    lines = [
        f"system     {facts['system']}, Python {facts['python']}",
        f"CPU        {own['model']}",
        f"           {own['cores_allowed']} of {own['cores']} cores, {facts['torch_threads']} torch threads, {memory} of memory",
        f"           {sets}",
    ]
    for gpu in facts["gpus"]:
        lines.append(f"GPU        {gpu['name']}, {gpu['memory_gib']:.1f} GiB, compute capability {gpu['capability']}")
    if not facts["gpus"]:
        lines.append("GPU        none that torch can use")
    own = facts["extension"]
    lines.append("kernels    " + (f"C++ extension, {own['target']} of {', '.join(own['targets'])}" if own else "torch reference only"))
    lines.append("packages   " + ", ".join(f"{n} {v or 'not installed'}" for n, v in facts["packages"].items()))
    lines.append("optional   " + (", ".join(f"{n} {v}" for n, v in facts["optional"].items() if v) or "none"))
    lines += [f"missing    {n}: {OPTIONAL[n]}" for n, v in facts["optional"].items() if not v]
    lines += [f"slow       {reason}" for reason in facts["slow"]]
    return "\n".join(lines)


def run(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print what this computer has for low-precision work, and what will be slow."""
    facts = survey()
    print(json.dumps(facts, indent=1) if as_json else text(facts))
