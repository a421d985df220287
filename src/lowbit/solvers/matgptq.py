"""MatGPTQ: one tensor of 8-bit codes whose upper bits are good codes of fewer bits too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError, ShapeError, UnsupportedError
from lowbit.formats.table import TableFormat
from lowbit.philox import Key
from lowbit.quantizers.grid import Grid, QTensor, dense
from lowbit.quantizers.matryoshka import sliceable, sliced
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme
from lowbit.quantizers.spec import text
from lowbit.quantizers.weight import Weight
from lowbit.solvers.columns import divisor
from lowbit.solvers.gptq import shared_factor
from lowbit.solvers.solver import Solver

KLEINEGGER = Source(
    "MatGPTQ: Accurate and Efficient Post-Training Matryoshka Quantization",
    "Kleinegger et al.",
    2026,
    "arXiv:2602.03537",
    parts="the choice of codes for several widths, and the error handed on, the mean over the widths",
    departs="In order of falling diag(H) with the scales of the original groups. The best of all codes is found by the lower envelope of "
    "their losses, not by trying them. The search for mixed widths is a method of its own.",
    records=("matgptq",),
)
#: columns whose feedback to the rest is gathered in one product
BATCH = 128


@register("solver", "matgptq", KLEINEGGER)
@dataclass(frozen=True)
class MatGPTQ(Solver):
    """GPTQ with q = argmin_q sum_r (w - w_r(q))^2 and the error mean_r (w - w_r(q)), w_r the slice of r bits on the master's scale.

    ``slice_tensor`` of ``quantizers.matryoshka`` gives the tensors of fewer bits.

    Args:
        bits: widths that count alike, joined by +; at most that of the quantizer.
        damping: as in ``gptq``.

    Raises:
        DataError: widths that are no numbers, or a damping that is not above 0.
        UnsupportedError: a quantizer other than int8 or uint8 with scales (or another integer), or widths beyond it.
    """

    bits: str = "3+4+8"
    damping: float = 0.01
    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def __post_init__(self) -> None:
        if not self.damping > 0 or not all(part.isdigit() and int(part) > 0 for part in self.bits.split("+")):
            raise DataError(f"matgptq:bits={self.bits}:damping={self.damping:g}: widths are like 3+4+8, the damping is above 0")

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.bits.split("+"))

    def nbytes(self, quantizer: Quantizer, shape: tuple[int, ...]) -> int:
        """Those of the master.

        Raises:
            UnsupportedError: its codes have no slices.
        """
        fmt = quantizer.format if isinstance(quantizer, Scheme) else None
        if not isinstance(fmt, TableFormat) or fmt.levels != 2**fmt.bits or max(self.widths) > fmt.bits:
            raise UnsupportedError(f"matgptq:bits={self.bits} slices integers, {text(quantizer)} holds none; take int8 g64")
        return quantizer.nbytes(shape)

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        H, n = stats["gram"], W.shape[1]
        if tuple(H.shape) != (n, n):
            raise ShapeError(f"gram is {tuple(H.shape)}, but W has {n} inputs")
        W = W.detach().float()
        grid = quantizer.grid(W)
        if type(grid) is not Grid or not sliceable(QTensor(W, grid)) or grid.offset is not None:
            raise UnsupportedError(f"matgptq slices int8, or uint8 with a zero point, not {text(quantizer)}; take int8 g64")
        assert isinstance(grid.format, TableFormat) and grid.scale is not None
        choice = _choices(grid.format.bits, self.widths, W.device)
        scale = grid.blocks.expand(dense(grid.scale), grid.shape).mT
        half = float(1 << grid.format.bits - 1)
        zero = torch.full_like(scale, half) if grid.zero is None else grid.blocks.expand(grid.zero, grid.shape).mT
        perm = H.diagonal().argsort(descending=True, stable=True)
        U = shared_factor(H, self.damping, "act", n, perm)
        work, scale, zero = W.mT[perm].contiguous(), scale[perm].contiguous(), zero[perm].contiguous()
        upper = torch.empty(work.shape, dtype=torch.int64, device=W.device)
        for start in range(0, n, BATCH):
            end = min(start + BATCH, n)
            missed = work.new_empty(end - start, len(W))
            for j in range(start, end):
                upper[j] = choice.codes[torch.bucketize(work[j] / divisor(scale[j]) + zero[j], choice.cuts, right=True)]
                error = (work[j] - scale[j] * (choice.mean[upper[j]] - zero[j])) / U[j, j]
                missed[j - start] = error
                if j + 1 < end:
                    work[j + 1 : end].addr_(U[j, j + 1 : end], error, alpha=-1)
            if end < n:
                work[end:] -= U[start:end, end:].mT @ missed
        codes = torch.empty(tuple(W.shape), dtype=torch.int64, device=W.device)
        codes[:, perm] = upper.mT
        stored = codes if grid.zero is not None else codes ^ int(half)
        return Weight((QTensor(stored.to(torch.uint8), replace(grid, overflow="saturate")),), (quantizer,))


@dataclass(frozen=True)
class Choices:
    """Which unsigned code is the best for a number, in units of the master's scale from its smallest code.

    Shapes:
        cuts    (k - 1,) float32, ascending
        codes   (k,) int64: the best between cuts
        mean    (2**master,) float32: the mean of the slices of each code
    """

    cuts: Tensor
    codes: Tensor
    mean: Tensor


@lru_cache(maxsize=16)
def _choices(master: int, widths: tuple[int, ...], device: torch.device) -> Choices:
    """sum_r (y - v_r)^2 = |R| y^2 - 2 y sum v_r + sum v_r^2: for each y the lowest of lines, one a code."""
    codes = torch.arange(1 << master)
    slices = torch.stack([sliced(codes, r, master).long() for r in widths])
    total, square = slices.sum(0).tolist(), slices.square().sum(0).tolist()
    best: dict[int, tuple[int, int]] = {}
    for q, (a, b) in enumerate(zip(total, square, strict=True)):
        if a not in best or b < best[a][0]:
            best[a] = (b, q)
    kept: list[tuple[int, int, int]] = []
    cuts: list[Fraction] = []
    for a in sorted(best):
        b, q = best[a]
        while kept:
            cut = Fraction(b - kept[-1][1], 2 * (a - kept[-1][0]))
            if not cuts or cut > cuts[-1]:
                cuts.append(cut)
                break
            kept.pop()
            cuts.pop()
        kept.append((a, b, q))
    return Choices(
        torch.tensor([float(c) for c in cuts], dtype=torch.float32, device=device),
        torch.tensor([q for _, _, q in kept], device=device),
        (slices.double().mean(0)).float().to(device),
    )
