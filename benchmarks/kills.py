"""A run that is killed again and again ends with the bytes of one that is not.

    python benchmarks/kills.py MODEL [--weights 'int4 g64'] [--solver gptq] [--kills 10] [--calibrate wikitext2:first] [--seed 0]

`lowbit quantize` runs once without harm, with one thread. Then it runs in another folder, with two threads, and is killed (SIGKILL) at
moments drawn evenly over its units and over the time within a unit; after each kill the same command is given again. At the end
every file of both folders is compared, byte by byte.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    """Print one line a kill and the verdict; 1 where bytes differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--weights", default="int4 g64")
    parser.add_argument("--solver", default="gptq")
    parser.add_argument("--calibrate", default="wikitext2:first")
    parser.add_argument("--sequences", default="32")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        whole, cut = Path(place) / "whole", Path(place) / "cut"
        began = time.monotonic()
        start(options, whole, 1).wait()
        seconds = time.monotonic() - began
        print(f"uninterrupted, 1 thread: {seconds:.0f} s, {files(whole)} files")
        units = len(list(whole.glob("model-*.safetensors")))  # one a unit
        moments = sorted(draw.uniform(0, units) for _ in range(options.kills))
        for kill, moment in enumerate(moments, 1):
            process = start(options, cut, 2)
            while process.poll() is None and finished(cut) < int(moment):
                time.sleep(0.02)
            try:
                process.wait(moment % 1 * seconds / units)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            code = process.wait()
            print(f"kill {kill}: wanted at {moment:.1f} of {units} units, exit code {code}, {finished(cut)} units finished", flush=True)
            if code == 0:
                break
        else:
            code = start(options, cut, 2).wait()
        if code != 0:
            return 1
        same = contents(whole) == contents(cut)
        print("every file is the same" if same else "THE FILES DIFFER")
        return int(not same)


def start(options: argparse.Namespace, folder: Path, threads: int) -> subprocess.Popen[bytes]:
    """The command, under way."""
    command = [
        sys.executable, "-m", "lowbit.cli.main", "quantize", options.model, "--weights", options.weights, "--solver", options.solver,
        "--calibrate", options.calibrate, "--sequences", options.sequences, "--max-tokens", "0", "-o", str(folder),
    ]  # fmt: skip
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, stdout=subprocess.DEVNULL)


def files(folder: Path) -> int:
    return len(contents(folder))


def finished(folder: Path) -> int:
    """Units that are on disk."""
    return len(list(folder.glob("unit-*.json")))


def contents(folder: Path) -> dict[str, str]:
    """Every file of a folder with a digest of its bytes."""
    return {p.name: hashlib.blake2b(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


if __name__ == "__main__":
    sys.exit(main())
