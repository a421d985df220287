"""Train the built-in model: a byte-level Llama on the sources of Python's standard library.

    python scripts/train_builtin.py --out DIR

Writes ``model.safetensors`` (bfloat16), ``config.json``, ``heldout.txt``, ``training.json`` and, where the
library has its licence beside it, ``heldout.LICENSE.txt``. One H100 takes a minute and a half.

Steps and decay are the best of four runs by the held-out loss: 14000 steps at 0.1 overfit (0.957 nats a byte),
2500 at 0.1 gave 0.823, 4000 at 0.5 gave 0.807, 4000 at 1.5 gave 0.792.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import shutil
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from lowbit.models.llama import Llama, LlamaConfig

CONFIG = LlamaConfig(
    vocab_size=256,  # bytes; byte 0 begins a document
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
)
WINDOW = CONFIG.max_position_embeddings

HELDOUT = ("argparse calendar configparser csv fractions getopt glob graphlib heapq pprint queue sched shlex statistics textwrap").split()

# Not training text: other people's packages, another Python's grammar, tables, and facts of one machine.
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "idlelib", "lib2to3", "pydoc_data", "encodings"}
SKIPPED_PREFIXES = ("_sysconfigdata",)
LETTERS = 0.39  # a file with a smaller share of letters is a table
RUN = 4  # a run is that many lines that follow each other, blank ones and indentation apart
SHARED = 0.01  # a training file that holds this share of the runs of a held-out file is dropped


def collect(stdlib: Path) -> dict[str, str]:
    """The library's files, path to text, in sorted order."""
    texts = {}
    for path in sorted(stdlib.rglob("*.py")):
        inside = path.relative_to(stdlib)
        if SKIPPED_FOLDERS & set(inside.parts) or inside.name.startswith(SKIPPED_PREFIXES):
            continue
        try:
            text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            continue
        if "\0" not in text and sum(map(str.isalpha, text)) > LETTERS * len(text):
            texts[inside.as_posix()] = text
    return texts


def runs(text: str) -> set[tuple[str, ...]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return {tuple(lines[i : i + RUN]) for i in range(len(lines) - RUN + 1)}


def split(texts: dict[str, str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Training files, held-out files (smallest first, so that a prefix holds several), and files in neither.

    In neither are the tests of the held-out modules and what repeats their text.
    """
    missing = [name for name in HELDOUT if f"{name}.py" not in texts]
    if missing:
        raise SystemExit(f"the standard library has no {', '.join(missing)}")
    heldout = {f"{name}.py": texts[f"{name}.py"] for name in HELDOUT}
    heldout = dict(sorted(heldout.items(), key=lambda item: (len(item[1]), item[0])))
    heldout_runs = [runs(text) for text in heldout.values()]

    train, dropped = {}, []
    for path, text in texts.items():
        if path in heldout:
            continue
        ours = runs(text)
        is_test = any(part.removesuffix(".py").removeprefix("test_") in HELDOUT for part in path.split("/"))
        if is_test or any(len(ours & theirs) > SHARED * len(theirs) for theirs in heldout_runs):
            dropped.append(path)
        else:
            train[path] = text
    return train, heldout, dropped


def join(texts: dict[str, str]) -> bytes:
    return b"".join(b"\0" + text.encode() for text in texts.values())


def as_tensor(data: bytes, device: str) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)


def initialize(model: Llama, seed: int) -> None:
    """Normal with deviation 0.02; what writes to the residual stream has less, by the root of the number of writers."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            writers = 2 * CONFIG.num_hidden_layers if name.endswith(("o_proj.weight", "down_proj.weight")) else 1
            torch.nn.init.normal_(p, std=0.02 / writers**0.5, generator=generator)


def next_byte_loss(model: torch.nn.Module, windows: Tensor, reduction: str = "mean") -> Tensor:
    """Cross entropy in nats of each byte of a window but its first."""
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def heldout_loss(model: Llama, data: Tensor, batch: int = 64) -> float:
    """Nats per byte over all whole windows of the text, side by side, in the dtype of the weights."""
    windows = data[: len(data) // WINDOW * WINDOW].view(-1, WINDOW).long()
    total = sum(next_byte_loss(model, part, "sum").item() for part in windows.split(batch))
    return total / (len(windows) * (WINDOW - 1))


def batches(data: Tensor, batch: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Windows that begin anywhere, (batch, WINDOW + 1)."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.arange(WINDOW + 1, device=data.device)
    for _ in range(steps):
        starts = torch.randint(len(data) - WINDOW, (batch, 1), generator=generator)
        yield data[starts.to(data.device) + inside].long()


def rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first 300 steps (or a tenth), then a cosine to zero."""
    warm = min(300, steps // 10 + 1)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def train(model: Llama, data: Tensor, heldout: Tensor, args: argparse.Namespace) -> list[dict[str, float]]:
    """AdamW on the model in place; the held-out losses on the way. The last step's weights are the result."""
    fast = args.device.startswith("cuda")
    run = torch.compile(model) if fast else model
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    groups = [{"params": matrices, "weight_decay": args.decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.95), fused=fast)

    history, since, began = [], [], time.perf_counter()
    for step, windows in enumerate(batches(data, args.batch, args.steps, args.seed), 1):
        for group in optimizer.param_groups:
            group["lr"] = rate(step - 1, args.steps, args.rate)
        with torch.autocast("cuda", torch.bfloat16, enabled=fast):
            loss = next_byte_loss(run, windows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        since.append(loss.detach())
        if step % args.every == 0 or step == args.steps:
            row = {"step": step, "train": torch.stack(since).mean().item(), "heldout": heldout_loss(model, heldout)}
            history.append({key: round(value, 4) for key, value in row.items()})
            seconds = time.perf_counter() - began
            print(f"step {step}  train {row['train']:.4f}  heldout {row['heldout']:.4f}  {seconds:.1f} s", flush=True)
            since = []
    return history


def save(model: Llama, out: Path) -> None:
    weights = {name: p.detach().to("cpu").contiguous() for name, p in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config = CONFIG.to_dict() | {"bos_token_id": 0, "eos_token_id": 0, "dtype": "bfloat16"}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; made if absent")
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    parser.add_argument("--stdlib", type=Path, default=stdlib, help="default: this Python's")
    parser.add_argument("--stdlib-version", default=platform.python_version(), help="the version to write down for it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=128, help="windows of 512 bytes a step")
    parser.add_argument("--rate", type=float, default=3e-3, help="the highest learning rate")
    parser.add_argument("--decay", type=float, default=1.5, help="weight decay of the matrices")
    parser.add_argument("--every", type=int, default=500, help="steps between looks at the held-out text")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    train_files, heldout_files, dropped = split(collect(args.stdlib))
    text, heldout_text = join(train_files), join(heldout_files)
    (args.out / "heldout.txt").write_bytes(heldout_text)
    if (args.stdlib / "LICENSE.txt").exists():
        shutil.copyfile(args.stdlib / "LICENSE.txt", args.out / "heldout.LICENSE.txt")
    print(f"train on {len(train_files)} files, {len(text)} bytes")
    print(f"held out {len(heldout_files)} files, {len(heldout_text)} bytes")
    print(f"in neither: {', '.join(dropped)}", flush=True)

    model = Llama(CONFIG)
    initialize(model, args.seed)
    model.to(args.device)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters on {args.device}", flush=True)
    data, heldout = as_tensor(text, args.device), as_tensor(heldout_text, args.device)
    began = time.perf_counter()
    history = train(model, data, heldout, args)
    seconds = time.perf_counter() - began

    save(model.bfloat16(), args.out)
    loss = heldout_loss(model.float(), heldout)
    print(f"held out, weights in bfloat16: {loss:.4f} nats a byte, perplexity {math.exp(loss):.4f}")
    record = {
        "text": "sources of Python's standard library, Python Software Foundation License",
        "python": args.stdlib_version,
        "train_files": len(train_files),
        "train_bytes": len(text),
        "train_sha256": hashlib.sha256(text).hexdigest(),
        "heldout_modules": list(heldout_files),
        "heldout_bytes": len(heldout_text),
        "heldout_sha256": hashlib.sha256(heldout_text).hexdigest(),
        "in_neither": dropped,
        "parameters": parameters,
        "steps": args.steps,
        "batch": args.batch,
        "window": WINDOW,
        "tokens": args.steps * args.batch * WINDOW,
        "rate": args.rate,
        "decay": args.decay,
        "seed": args.seed,
        "weights": "those of the last step, rounded to bfloat16",
        "heldout_nats_per_byte": round(loss, 5),
        "heldout_perplexity_per_byte": round(math.exp(loss), 5),
        "seconds": round(seconds),
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device,
        "torch": torch.__version__,
        "history": history,
    }
    (args.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
