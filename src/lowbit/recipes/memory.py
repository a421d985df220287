"""How much memory a calibrated run takes, known before it starts, and whether a bound can be held."""

from __future__ import annotations

import ctypes
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lowbit.errors import UnsupportedError
from lowbit.nn.graph import block_names
from lowbit.recipes.plan import Plan
from lowbit.solvers.block_solver import BlockSolver

#: the parameter of glibc's mallopt
MMAP_THRESHOLD = -3


@dataclass(frozen=True)
class Need:
    """Bytes by what they are for.

    Args:
        now: resident before the run.
        block: the parameters of the largest block, before and after quantization.
        statistics: matrices of the largest layer and their factorization.
        work: copies of the largest layer's weight while it is solved.
        hidden: hidden states of all sequences, of every stream.
    """

    now: int
    block: int
    statistics: int
    work: int
    hidden: int

    def total(self, spilled: bool) -> int:
        """Bytes at the peak, with the hidden states in files or in memory."""
        return self.now + self.block + max(self.statistics, self.work) + (0 if spilled else self.hidden)


@dataclass(frozen=True)
class Room:
    """How a run is held to what there is.

    Args:
        peak: bytes held at the most, about.
        spill: hidden states go to files.
        kept: bytes for results inside a block that save running it again; None leaves it to what the system has left.
        shard: bytes of a shard, which waits in memory until it is full.
    """

    peak: int
    spill: bool
    kept: int | None
    shard: int


def room(module: nn.Module, made: Plan, sequences: int, length: int, shard: int, limit: int | None) -> Room:
    """Where the bytes of a run go, of a streamed model within ``limit`` bytes or of one in memory without a limit.

    Raises:
        UnsupportedError: the limit is too little; says what is needed.
    """
    needed = need(module, made, sequences, length, streamed=limit is not None)
    if limit is None:
        return Room(max(made.peak_nbytes, needed.total(spilled=False) if made.calibrated else 0), False, None, shard)
    spill = spill_under(limit, needed)
    peak = needed.total(spill)
    return Room(peak, spill, (limit - peak) // 2, min(shard, limit // 8))


def need(module: nn.Module, made: Plan, sequences: int, length: int, *, streamed: bool) -> Need:
    """An upper estimate for a run of the calibrated recipe, in bytes; ``streamed`` models have one block in memory at a time."""
    hidden_size = next((m.embedding_dim for m in module.modules() if isinstance(m, nn.Embedding)), 0)
    blocks = block_names(module)
    largest = max((sum(p.numel() for p in module.get_submodule(b).parameters()) for b in blocks), default=0)
    widest = max(p.shape[1] for p in made.layers)
    heaviest = max(torch.Size(p.shape).numel() for p in made.layers)
    streams = 1 + made.solver.two_streams
    alone = made.solver.start if isinstance(made.solver, BlockSolver) else made.solver
    square = widest * widest if alone.needs else 0
    return Need(
        now=resident_bytes(),
        block=largest * 4 * (2 if streamed else 1),
        statistics=max(square * 8 * (2 + streams) + square * 4, _of_transforms(made, blocks)),
        work=max(square * (8 * streams + 4) + heaviest * 28, _together(largest, widest, length) if alone is not made.solver else 0),
        hidden=streams * sequences * length * hidden_size * 4 if made.calibrated else 0,
    )


def _together(largest: int, widest: int, length: int) -> int:
    """Of the weights of a block moved together: what is kept of each, its gradients by thread, and what a pass keeps for its gradient."""
    threads = torch.get_num_threads()
    return 4 * (largest * (12 + 2 * threads) + threads * length * 40 * widest)


def _of_transforms(made: Plan, blocks: list[str]) -> int:
    """Bytes of the matrices that transforms collect on all edges of a block at once."""
    if not any("gram" in step.needs for each in made.transforms for step in each.steps()):
        return 0
    inside = {b: {p.shape[1] for p in made.layers if p.name.startswith(f"{b}.")} for b in blocks or [""]}
    return max(sum(8 * 2 * width * width for width in widths) for widths in inside.values())


def spill_under(limit: int, found: Need) -> bool:
    """Whether hidden states must go to files to stay below the limit.

    Raises:
        UnsupportedError: even that is not enough; says what is needed.
    """
    if found.total(spilled=False) <= limit:
        return False
    if found.total(spilled=True) <= limit:
        return True
    matrices = max(found.statistics, found.work)
    parts = f"{found.now / 1e6:.0f} MB for the program, {found.block / 1e6:.0f} for a block, {matrices / 1e6:.0f} for its statistics"
    least = f"about {found.total(spilled=True) / 1e6:.0f} MB are needed"
    raise UnsupportedError(f"--memory {limit / 1e6:.0f}MB is too little: {least} ({parts})")


def give_back_freed() -> None:
    """From now on freed tensors of 1 MiB and more go back to the system at once, where the C library can be told so (glibc).

    By itself it raises that size to 32 MiB with use, and keeps what lies between smaller tensors that live: a quarter more in a long run.
    """
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(MMAP_THRESHOLD, 1 << 20)


def resident_bytes() -> int:
    """Bytes of this process in memory now (its peak where the system does not tell)."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
